package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// described is /openapi.yaml of an instance, as a stranger's tool reads it.
type described struct {
	t      *testing.T
	in     *instance
	doc    *openapi3.T
	router routers.Router
	tried  map[string]bool // method and path of operations that were called
}

func describe(t *testing.T, in *instance) *described {
	t.Helper()
	status, text := in.get(in.admin + "/openapi.yaml")
	require.Equal(t, 200, status)
	doc, err := openapi3.NewLoader().LoadFromData([]byte(text))
	require.NoError(t, err)
	require.NoError(t, doc.Validate(context.Background()))
	for _, schema := range doc.Components.Schemas {
		requireNoMore(schema.Value)
	}
	doc.Servers = openapi3.Servers{{URL: in.admin}}
	router, err := gorillamux.NewRouter(doc)
	require.NoError(t, err)
	return &described{t: t, in: in, doc: doc, router: router, tried: make(map[string]bool)}
}

// requireNoMore makes members that the document does not name an error, so that what is
// added to an answer is added to the document too.
func requireNoMore(s *openapi3.Schema) {
	if s.Items != nil && s.Items.Ref == "" {
		requireNoMore(s.Items.Value)
	}
	if len(s.Properties) > 0 {
		no := false
		s.AdditionalProperties.Has = &no
	}
	for _, member := range s.Properties {
		if member.Ref == "" {
			requireNoMore(member.Value)
		}
	}
}

// call asks, compares request and answer with the document, and returns the answer.
func (d *described) call(method, target, mediaType, body string, want int) string {
	d.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, d.in.admin+target, strings.NewReader(body))
	require.NoError(d.t, err)
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	route, params, err := d.router.FindRoute(req)
	require.NoError(d.t, err, "%s %s", method, target)
	input := &openapi3filter.RequestValidationInput{
		Request: req, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if want < 400 {
		require.NoError(d.t, openapi3filter.ValidateRequest(ctx, input), "%s %s", method, target)
		d.tried[method+" "+route.Path] = true
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(d.t, err)
	defer resp.Body.Close()
	var text []byte
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		text = make([]byte, 1)
		_, err = io.ReadFull(resp.Body, text) // it goes on
	} else {
		text, err = io.ReadAll(resp.Body)
	}
	require.NoError(d.t, err)
	require.Equal(d.t, want, resp.StatusCode, "%s %s: %s", method, target, text)
	answer := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(text)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	require.NoError(d.t, openapi3filter.ValidateResponse(ctx, answer), "%s %s", method, target)
	return string(text)
}

// TestAnswersAreAsTheDescriptionOfTheAPISays calls every operation that it has.
func TestAnswersAreAsTheDescriptionOfTheAPISays(t *testing.T) {
	t.Parallel()
	// The bodies of these are not JSON.
	for _, mediaType := range []string{"application/yaml", "application/x-ndjson", "text/event-stream", "text/html"} {
		openapi3filter.RegisterBodyDecoder(mediaType, openapi3filter.PlainBodyDecoder)
	}
	r := redistest.Start(t)
	d := describe(t, startRedis(t, r, "--envelope", "json"))
	connect(t, d.in, "not-an-id", "user123").wantGap("unknown-id")
	const plain, lines = "text/plain", "application/x-ndjson"
	d.call("POST", "/publish?channel_id=user123&event=order&id=17", plain, "hello", 200)
	d.call("POST", "/publish", plain, "hello", 400)
	d.call("POST", "/api/send", "application/json", `{"channel_id":"user123","data":{"a":1},"retry":5000}`, 200)
	d.call("POST", "/api/send", "application/json", `{"channel_id":"user123"}`, 400)
	batch := d.call("POST", "/api/batch", lines, `{"channel_id":"user123","data":"x"}`+"\n{}", 200)
	d.call("POST", "/api/batch", "application/json", `[{"channel_id":"user123","data":"x"},{"channel_id":"user123","data":[1]}]`, 200)
	d.call("POST", "/api/batch", "application/json", `[`, 400)
	written := regexp.MustCompile(`[0-9]+-[0-9]+`).FindString(batch)
	d.in.written(r, written)
	for _, target := range []string{
		"/health", "/ready", "/openapi.yaml", "/", "/metrics", "/api/stats", "/api/stats/recent", "/api/live", "/api/gaps", "/api/instances", "/api/partitions",
		"/api/channels?sort=rate&limit=10", "/api/channels/user123", "/api/history/user123", "/api/history/user123?after=1-1&limit=1", "/api/history/user123?order=newest",
		"/api/connections?channel_id=user123", "/api/position",
	} {
		d.call("GET", target, "", "", 200)
	}
	d.call("GET", "/api/channels?sort=name", "", "", 400)
	d.call("DELETE", "/api/connections/"+onlyConnection(t, d.in), "", "", 204)
	d.call("DELETE", "/api/connections/0-0-0", "", "", 404)
	d.call("DELETE", "/api/connections?channel=user123", "", "", 200)
	d.call("DELETE", "/api/connections?unknown=1", "", "", 400)
	d.call("DELETE", "/api/history/user123", "", "", 204)
	for path, item := range d.doc.Paths.Map() {
		for method := range item.Operations() {
			require.Contains(t, d.tried, method+" "+path, "the test does not call it")
		}
	}

	alone := describe(t, start(t))
	alone.call("GET", "/api/stats", "", "", 200)
	alone.call("GET", "/api/partitions", "", "", 200)
	alone.call("GET", "/api/channels/user123", "", "", 200)
	alone.call("POST", "/publish?channel_id=user123", plain, "hello", 200)
	alone.call("GET", "/api/history/user123", "", "", 404)
	strict := describe(t, start(t, "--admin-token", strings.Repeat("x", 32)))
	strict.call("GET", "/api/stats", "", "", 401)
	strict.call("POST", "/publish?channel_id=user123", plain, "hello", 401)
}
