package auth

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"

	"ssed/internal/throttle"
)

// outage logs that something failed, once a minute, and that it works again.
type outage struct {
	logger *slog.Logger
	what   string
	state  throttle.Outage
}

// note records how an attempt went: nil or an error without secrets.
func (o *outage) note(err error) {
	if err == nil {
		if o.state.Worked() {
			o.logger.Info("auth: " + o.what + " works again")
		}
		return
	}
	if failures, tell := o.state.Failed(); tell {
		o.logger.Warn("auth: "+o.what+" failed, clients are refused", "error", err, "failures", failures)
	}
}

var (
	errTimeout  = errors.New("no answer in time")
	errCut      = errors.New("the connection was cut")
	errProtocol = errors.New("not an answer of HTTP")
)

// plainError is what may be told of an error of net/http. The original has the URL
// in it, and may quote the answer, which may quote the request.
func plainError(err error) error {
	var timeout interface{ Timeout() bool }
	var network *net.OpError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return errTimeout
	case errors.As(err, &network):
		return network
	case errors.As(err, &certificate):
		return certificate
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errCut
	}
	return errProtocol
}
