package engine

import (
	"io"
	"net"
	"testing"
)

// BenchmarkHandshake is a new connection with one plain request, both sides.
func BenchmarkHandshake(b *testing.B) {
	s := serveEngine(b, Config{})
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.WriteString(conn, getHealth)
		if _, err := conn.Read(buf); err != nil {
			b.Fatal(err)
		}
		_ = conn.Close()
	}
}

// BenchmarkKeepAlive is a plain request on an open connection, both sides.
func BenchmarkKeepAlive(b *testing.B) {
	s := serveEngine(b, Config{})
	buf := make([]byte, 4096)
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = io.WriteString(conn, getHealth)
		if _, err := conn.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
