package outbound

import (
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/internal/pipetest"
)

func TestHeadIsBoundedAndBodyIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := Transport(5 * time.Second)
		transport.DisableKeepAlives = true
		transport.DialContext = pipetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/silent" {
				<-r.Context().Done()
				return
			}
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(24 * time.Hour) // of the bubble
			_, _ = io.WriteString(w, "at last")
		}))
		client := http.Client{Transport: transport}
		began := time.Now()
		_, err := client.Get("http://127.0.0.1/silent")
		timeout, ok := errors.AsType[net.Error](err)
		require.True(t, ok && timeout.Timeout(), "%v", err)
		require.Equal(t, 5*time.Second, time.Since(began))

		resp, err := client.Get("http://127.0.0.1/")
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "at last", string(body))
	})
}

func TestErrorsAreToldWithoutTheURL(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	client := http.Client{Transport: Transport(time.Second)}
	for _, place := range []string{"http://user:s3cret@" + l.Addr().String() + "/?key=s3cret", "http://user:s3cret@%/"} {
		_, err := client.Get(place)
		require.Error(t, err)
		require.NotContains(t, WithoutURL(err).Error(), "s3cret")
	}
	require.Equal(t, io.EOF, WithoutURL(io.EOF))
}
