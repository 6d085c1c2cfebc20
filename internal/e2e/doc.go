// Package e2e tries ssed with what it meets in the field: browsers, client
// libraries, publishers and proxies, all of them the real programs, on loopback.
// "make e2e" installs them and runs it; the build tag e2e keeps a plain
// "go test ./..." in this directory from failing for want of them.
//
// It is a module of its own, so that ssed's go.mod does not name the clients under
// test. Its name lies below "ssed/", which is what lets it import ssed/internal.
package e2e
