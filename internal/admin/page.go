package admin

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"html"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// dashboard holds the page in the parts that one reads it by. They are joined when
// the process starts: there is no build step.
//
//go:embed dashboard
var dashboard embed.FS

// scripts in the order in which they build on each other.
var scripts = []string{"base.js", "live.js", "plot.js", "overview.js", "connections.js", "watch.js", "channel.js", "main.js"}

// settings are what the page knows of the streams. An empty Host is the one under
// which the page itself was opened.
type settings struct {
	Host           string `json:"host"`
	Port           string `json:"port"`
	HeartbeatEvent string `json:"heartbeat_event"`
	MaxLast        int    `json:"max_last"`
}

// newPage renders the page once: it is the same for everyone.
func newPage(set settings, streams string) http.Handler {
	if host, port, err := net.SplitHostPort(streams); err == nil {
		set.Port = port
		if ip, err := netip.ParseAddr(host); err != nil || !ip.IsUnspecified() {
			set.Host = host
		}
	}
	style, script := joined("style.css"), joined(scripts...)
	page := []byte(strings.NewReplacer("{{style}}", style, "{{script}}", script, "{{settings}}", set.attribute()).Replace(joined("page.html")))
	policy := pagePolicy(set.Port, style, script)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", policy)
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		_, _ = w.Write(page) // fails only when the client has gone
	})
}

// pagePolicy lets the page run what it brought along, and reach its own origin and
// the port of the streams, under whatever host name the operator came by.
func pagePolicy(port, style, script string) string {
	reach := "'self'"
	if port != "" {
		reach += " *:" + port
	}
	return "default-src 'none'; connect-src " + reach + "; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'" +
		"; script-src " + inlineHash(script) + "; style-src " + inlineHash(style)
}

// attribute returns the settings as the value of an attribute.
func (s settings) attribute() string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings always have a JSON form
	}
	return html.EscapeString(string(text))
}

// joined returns parts of the page one after the other.
func joined(names ...string) string {
	var b strings.Builder
	for _, name := range names {
		text, err := dashboard.ReadFile("dashboard/" + name)
		if err != nil {
			panic(err) // embedded: the program was built without it
		}
		b.Write(text)
	}
	return b.String()
}

// inlineHash returns the CSP source of an inline element with that text.
func inlineHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
