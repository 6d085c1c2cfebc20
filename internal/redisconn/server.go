package redisconn

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// LeastVersion of Redis has flags in scripts.
const LeastVersion = 7

var (
	// ErrTooOld is returned for a server before LeastVersion.
	ErrTooOld = errors.New("ssed needs Redis 7.0 or later")
	// ErrCluster is returned for a node of a Redis Cluster that was taken for a single server.
	ErrCluster = errors.New("it is a node of a Redis Cluster: name several of its nodes, " +
		"redis://HOST:6379?addr=HOST2:6379 (where one name leads to all of them, this name twice)")
	errRunID = errors.New("no run_id in INFO")
)

// Server is what INFO tells of a server.
type Server map[string]string

// ParseInfo reads an answer to INFO.
func ParseInfo(text string) Server {
	info := Server{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info
}

// RunID names this run of the server. Another one is a restart or another server.
func (s Server) RunID() string { return s["run_id"] }

// Term is another one with each promotion of the server: the replication ID of the
// primary that it was promoted from. "" when it is not told.
func (s Server) Term() string { return s["master_replid2"] }

// isInCluster tells of a node of a cluster. Valkey says server_mode.
func (s Server) isInCluster() bool {
	return s["redis_mode"] == "cluster" || s["server_mode"] == "cluster"
}

// Check returns why ssed cannot work with the server, which is to be a node of a cluster or
// not, or nil. A version that cannot be read passes: forks count by themselves.
func (s Server) Check(isCluster bool) error {
	major, _, _ := strings.Cut(s["redis_version"], ".")
	if n, err := strconv.Atoi(major); err == nil && n < LeastVersion {
		return fmt.Errorf("%w, and this is %s", ErrTooOld, s["redis_version"])
	}
	switch {
	case s.isInCluster() && !isCluster:
		return ErrCluster
	case s.RunID() == "":
		return errRunID
	}
	return nil
}
