// Package ssed is a Server-Sent Events gateway as a library.
package ssed
