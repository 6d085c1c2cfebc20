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

// BenchmarkConnect is a new stream, both sides: the request is there when its connection
// is accepted, as nearly always, or comes in two parts and is read by netpoll.
func BenchmarkConnect(b *testing.B) {
	request := getStream("a", "User-Agent: Mozilla/5.0", asEventSource)
	for name, parts := range map[string][]string{
		"request=whole": {request},
		"request=parts": {request[:40], request[40:]},
	} {
		b.Run(name, func(b *testing.B) {
			s := serveEngine(b, Config{})
			buf := make([]byte, 4096)
			b.ReportAllocs()
			for b.Loop() {
				conn, err := net.Dial("tcp", s.addr)
				if err != nil {
					b.Fatal(err)
				}
				for _, part := range parts {
					_, _ = io.WriteString(conn, part)
				}
				if _, err := conn.Read(buf); err != nil {
					b.Fatal(err)
				}
				_ = conn.(*net.TCPConn).SetLinger(0) // leaves no TIME_WAIT
				_ = conn.Close()
			}
		})
	}
}
