package admin

import (
	_ "embed"
	"net/http"
)

// openAPI describes the API for programs that make clients and pages of it. A test compares
// it with the routes and with real answers.
//
//go:embed openapi.yaml
var openAPI []byte

// openapi has no guard: the document says nothing about this instance.
func (a *API) openapi(w http.ResponseWriter, _ *http.Request) {
	setJSONHeaders(w.Header(), "application/yaml")
	_, _ = w.Write(openAPI) // fails only when the client has gone
}
