package main

import (
	"io"
	"reflect"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed"
	"ssed/engine"
	"ssed/internal/auth"
	"ssed/rstore"
	"ssed/rsub"
)

// flagsOf reads a command line of serve.
func flagsOf(t *testing.T, args ...string) *flags {
	t.Helper()
	var c commandLine
	_, err := c.parse(append([]string{"serve"}, args...), io.Discard)
	require.NoError(t, err)
	return &c.Serve.flags
}

// A flag that is not given and a field that is zero mean the same.
func TestDefaultsOfTheFlagsAreThoseOfTheLibrary(t *testing.T) {
	byFlags, err := flagsOf(t, "--listen=127.0.0.1:0", "--redis-url=redis://127.0.0.1:1").config()
	require.NoError(t, err)
	option := *byFlags.gateway.Redis
	zero := ssed.Config{Listen: []string{"127.0.0.1:0"}, Redis: &option, History: &ssed.HistoryConfig{}}

	engineOf, feedOf, historyOf := runsWith(t, zero)
	engineBy, feedBy, historyBy := runsWith(t, byFlags.gateway)
	require.Equal(t, engineOf, engineBy)
	require.Equal(t, feedOf, feedBy)
	require.Equal(t, historyOf, historyBy)

	accessOf, accessBy := auth.Config{}.WithDefaults(), byFlags.auth.WithDefaults()
	accessOf.Logger, accessBy.Logger = nil, nil
	require.Equal(t, accessOf, accessBy)
}

// runsWith is what the parts run with, but for what differs on purpose.
func runsWith(t *testing.T, cfg ssed.Config) (engine.Config, rsub.Config, rstore.Config) {
	t.Helper()
	gateway, err := ssed.New(cfg)
	require.NoError(t, err)
	t.Cleanup(gateway.Close)
	parts := gateway.Parts()
	e, f, h := parts.Engine.Config(), parts.Feeds[0].Config(), parts.Stores[0].Config()
	e.History, e.Ready, e.Takes, e.Logger = nil, nil, nil, nil
	e.AuthTimeout = 0 // the program's own authoriser bounds itself, by --auth-timeout
	f.OnLeaseReleased, f.OnNotice, f.Elsewhere, h.Elsewhere, f.Cleared = nil, nil, nil, nil, nil
	h.ServerOf, h.OnOtherServer = nil, nil
	f.Logger, h.Logger = nil, nil
	f.Instance, h.Instance = "", "" // random
	f.Inbox = ""                    // a library takes from a key of Redis only when it is told to
	f.Client, h.Client = rueidis.ClientOption{}, rueidis.ClientOption{}
	return e, f, h
}

// A problem of any field can be told by its flag.
func TestEveryFieldOfTheLibraryHasAFlag(t *testing.T) {
	noFlag := map[string]bool{
		"Auth":                true, // the flags of access make it
		"Logger":              true,
		"Streams.AuthTimeout": true, // see authBackstop
	}
	names := map[string]bool{"--test-clock-offset": true}
	for _, f := range allFlags(t) {
		names["--"+f.Name] = true
	}
	fields := fieldsOf(reflect.TypeFor[ssed.Config](), "")
	for _, field := range fields {
		flag, ok := flagOfField[field]
		require.NotEqual(t, ok, noFlag[field], field)
		require.True(t, noFlag[field] || names[flag], "%s: %s", field, flag)
	}
	require.Len(t, fields, len(flagOfField)+len(noFlag), "flagOfField has a name that no field has")
}

func TestEveryFieldOfAccessHasAFlag(t *testing.T) {
	names := map[string]bool{"$" + envJWTSecret: true}
	for _, f := range allFlags(t) {
		names["--"+f.Name] = true
	}
	fields := fieldsOf(reflect.TypeFor[auth.Config](), "")
	for _, field := range fields {
		require.Equal(t, field != "Logger", names[flagOfAuthField[field]], field)
	}
	// Without Logger, and with Publishers beside its own fields.
	require.Len(t, fields, len(flagOfAuthField), "flagOfAuthField has a name that no field has")
}

// TestProblemsOfAccessAreToldByFlag also where a text names a second one.
func TestProblemsOfAccessAreToldByFlag(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		_, err := flagsOf(t, args...).config()
		require.EqualError(t, err, want)
	}
	f("--auth: jwt needs one of --auth-jwt-secret-file, --auth-jwt-key-file, --auth-jwks-url", "--auth=jwt")
	f("--auth-url: cannot be combined with --auth jwt", "--auth=jwt", "--auth-jwks-url=https://a.example/", "--auth-url=https://b.example/")
	f("--auth-cookie: needs --auth jwt\n--auth-query: needs --auth jwt", "--auth-cookie=a", "--auth-query=b")
	f("--auth-require-exp: needs --auth jwt or --auth-url", "--auth-require-exp")
	f("--publish-listen: needs --publish-jwt-secret-file or --publish-jwt-key-file, or --auth jwt, whose keys serve then", "--publish-listen=127.0.0.1:0")
}

func fieldsOf(t reflect.Type, prefix string) (names []string) {
	for i := range t.NumField() {
		field := t.Field(i)
		of := field.Type
		if of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if of.Kind() == reflect.Struct && of.PkgPath() == t.PkgPath() {
			names = append(names, fieldsOf(of, field.Name+".")...)
			continue
		}
		names = append(names, prefix+field.Name)
	}
	return names
}
