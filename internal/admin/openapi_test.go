package admin

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// TestEveryRouteIsDescribed: what is described is compared with real answers elsewhere.
func TestEveryRouteIsDescribed(t *testing.T) {
	var routes [][]string
	for _, file := range []string{"api.go", "publisher.go"} {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		found := regexp.MustCompile(`"(GET|POST|DELETE) (/[^"]*)"`).FindAllStringSubmatch(string(source), -1)
		require.NotEmpty(t, found, file)
		routes = append(routes, found...)
	}
	for _, route := range routes {
		path := strings.TrimSuffix(route[2], "{$}")
		if strings.HasPrefix(path, "/debug/") {
			continue // profiles are Go's own
		}
		_, item, found := strings.Cut(string(openAPI), "\n  "+path+":\n")
		require.True(t, found, path)
		item, _, _ = strings.Cut(item, "\n  /")
		require.Contains(t, "\n"+item, "\n    "+strings.ToLower(route[1])+":\n", route[0])
	}
	require.Contains(t, string(openAPI), "enum: ["+strings.Join(sseproto.Reasons(), ", ")+"]")
}
