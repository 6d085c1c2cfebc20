package admin

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"html"
	"net"
	"net/http"
	"net/netip"
)

//go:embed page.html
var pageText []byte

// streamAddr is where the page finds the streams. An empty Host is the one under
// which the page itself was opened.
type streamAddr struct {
	Host string `json:"host"`
	Port string `json:"port"`
}

// newPage renders the page once: it is the same for everyone.
func newPage(streams string) http.Handler {
	var addr streamAddr
	if host, port, err := net.SplitHostPort(streams); err == nil {
		addr.Port = port
		if ip, err := netip.ParseAddr(host); err != nil || !ip.IsUnspecified() {
			addr.Host = host
		}
	}
	settings, err := json.Marshal(addr)
	if err != nil {
		panic(err) // two strings always have a JSON form
	}
	page := bytes.Replace(pageText, []byte("{{settings}}"), []byte(html.EscapeString(string(settings))), 1)
	policy := "default-src 'none'; connect-src *; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'" +
		"; script-src " + inlineHash(pageText, "script") + "; style-src " + inlineHash(pageText, "style")
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", policy)
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		_, _ = w.Write(page) // fails only when the client has gone
	})
}

// inlineHash returns the CSP source of the one inline element of that name.
func inlineHash(page []byte, element string) string {
	_, rest, _ := bytes.Cut(page, []byte("<"+element+">"))
	text, _, _ := bytes.Cut(rest, []byte("</"+element+">"))
	sum := sha256.Sum256(text)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
