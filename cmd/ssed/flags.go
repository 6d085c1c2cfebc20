package main

import (
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"
)

// flags is the command line as text. Values are not parsed here: kong stops at
// the first bad one, and config names them all at once.
type flags struct {
	Listen           []string `group:"public" default:":8080" placeholder:"ADDR" help:"Public addresses: host:port, :port or unix:/path. Port 0 picks a free one."`
	ReusePort        toggle   `group:"public" help:"Set SO_REUSEPORT, so that several processes can share a port."`
	MaxConnections   string   `group:"public" placeholder:"N" help:"Open client connections, handshakes included. Default: the limit of open files less 256."`
	HandshakeTimeout string   `group:"public" default:"5s" placeholder:"TIME" help:"From accept to the last byte of the request head; slower clients are closed."`
	Drain            string   `group:"public" default:"10s" placeholder:"TIME" help:"On SIGTERM or SIGINT, the window over which open streams are closed. The process ends at most 5s after it."`
	CORSOrigins      []string `name:"cors-origins" group:"public" default:"*" placeholder:"ORIGIN" help:"Web origins that may read: * or a list such as https://app.example.com."`
	CORSCredentials  toggle   `name:"cors-credentials" group:"public" help:"Allow cross-origin requests with cookies: the origin is echoed, even where --cors-origins is *."`

	Retry       string `group:"streams" default:"2s-5s" placeholder:"MIN-MAX" help:"Reconnection delay told to clients, drawn for each between the two."`
	Heartbeat   string `group:"streams" default:"15s" placeholder:"TIME" help:"Longest silence on a stream; then a comment line is sent. 0 turns it off."`
	MaxChannels string `name:"max-channels-per-connection" group:"streams" default:"32" placeholder:"N" help:"Values of channel_id in one request, 1 to 1024."`
	MaxMessage  string `name:"max-message-bytes" group:"streams" default:"1MiB" placeholder:"BYTES" help:"Larger messages are dropped and counted. Bytes, or with KiB, MiB, GiB."`
	RingBytes   string `group:"streams" default:"64MiB" placeholder:"BYTES" help:"Memory for recent messages, which serves slow and reconnecting clients. At least 256KiB."`
	Shards      string `group:"streams" placeholder:"N" help:"Event loops. Default: GOMAXPROCS."`

	RedisURL     string   `name:"redis-url" group:"redis" placeholder:"URL" help:"redis://user:password@host:6379/0, also rediss:// and unix://. Without it ssed runs embedded. The command line is visible to other users: give a password by environment or file."`
	RedisURLFile string   `name:"redis-url-file" group:"redis" placeholder:"PATH" help:"File that holds the URL."`
	Patterns     []string `group:"redis" default:"*" placeholder:"GLOB" help:"Channels to deliver, as for PSUBSCRIBE. The same on every instance."`
	StreamPrefix string   `group:"redis" default:"sse:stream:" placeholder:"TEXT" help:"Keys: the history of a channel is the stream at prefix plus channel. The same on every instance."`
	Instance     string   `group:"redis" placeholder:"NAME" help:"Name of this process in Redis and logs. Default: host, process id and a random part."`
	RedisFeeds   string   `group:"redis" default:"1" placeholder:"N" help:"Pub/Sub links to Redis, 1 or 2. Two are merged by message id: the loss of one then loses nothing, at twice the traffic."`
	TickInterval string   `group:"redis" default:"100ms" placeholder:"TIME" help:"Time between two marks of the common clock, over all instances."`
	ProbeTimeout string   `group:"redis" default:"2s" placeholder:"TIME" help:"A link on which no mark arrived for so long is cut and made anew; meanwhile ssed is not ready."`

	History        string `group:"history" default:"on" placeholder:"on|off" help:"Keep messages in Redis for clients that reconnect. Off: only what is in memory."`
	HistoryMax     string `group:"history" default:"100" placeholder:"N" help:"Messages kept per channel, approximately (MAXLEN ~)."`
	HistoryTTL     string `name:"history-ttl" group:"history" default:"1h" placeholder:"TIME" help:"A channel's history is deleted after so long without a message."`
	BatchSize      string `group:"history" default:"100" placeholder:"N" help:"Messages written to Redis at once."`
	FlushInterval  string `group:"history" default:"10ms" placeholder:"TIME" help:"Longest wait for a batch to fill."`
	GapWait        string `group:"history" default:"1s" placeholder:"TIME" help:"When no instance can go on where the history ends, the missing stretch is given up after so long. At least 250ms; on a busy machine too little gives up what another instance still has."`
	HistoryWait    string `group:"history" default:"3s" placeholder:"TIME" help:"How long a resume waits until the history is written up to what is in memory; then a gap event."`
	HistoryReaders string `group:"history" default:"16" placeholder:"N" help:"Concurrent reads of the history."`

	Admin string `group:"admin" default:"127.0.0.1:9090" placeholder:"ADDR" help:"Listener for the page, POST /publish, /metrics, /health and /ready; it has no authentication. off turns it off."`
	Pprof toggle `group:"admin" help:"Serve /debug/pprof on the admin listener."`

	LogLevel  string `group:"logging" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error."`
	LogFormat string `group:"logging" default:"text" placeholder:"text|json" help:"Form of the lines on standard error."`

	TestClockOffset string `hidden:"" default:"0s" help:"Added to the time of Redis in this instance's marks. For fault injection."`

	Version bool `help:"Print the version and exit." env:"-"`
}

const description = `Delivers what backends PUBLISH on Redis to browsers as Server-Sent Events. Without --redis-url it keeps messages in memory and takes them by POST /publish on the admin listener.

Lists may be given as repeated flags or separated by commas. Times: 500ms, 10s, 1h. A flag goes before its environment variable.`

// parse reads args and the environment. It ends the process after --help.
func (f *flags) parse(args []string, stdout io.Writer) error {
	parser, err := newParser(f, stdout)
	if err != nil {
		return err
	}
	// kong takes an empty variable for a value, which in a compose file it hardly is.
	for _, flag := range parser.Model.Flags {
		for _, env := range flag.Tag.Envs {
			if os.Getenv(env) == "" {
				os.Unsetenv(env)
			}
		}
	}
	_, err = parser.Parse(args)
	return err
}

func newParser(f *flags, stdout io.Writer) (*kong.Kong, error) {
	return kong.New(f,
		kong.Name("ssed"),
		kong.Description(description),
		kong.DefaultEnvars("SSED"),
		kong.ExplicitGroups([]kong.Group{
			{Key: "public", Title: "Public port:"},
			{Key: "streams", Title: "Streams and messages:"},
			{Key: "redis", Title: "Redis:"},
			{Key: "history", Title: "History (with Redis):"},
			{Key: "admin", Title: "Admin listener:"},
			{Key: "logging", Title: "Logging:"},
		}),
		kong.ValueFormatter(helpOf),
		kong.Writers(stdout, stdout),
	)
}

// helpOf is the help of a flag with what kong's own leaves out: the default.
func helpOf(v *kong.Value) string {
	var notes []string
	if v.Default != "" {
		notes = append(notes, "default "+v.Default)
	}
	for _, env := range v.Tag.Envs {
		notes = append(notes, "$"+env)
	}
	if notes == nil {
		return v.Help
	}
	return v.Help + " (" + strings.Join(notes, ", ") + ")"
}

// toggle is a flag that may stand without a value. It takes any text, for config
// to judge.
type toggle string

// Decode implements kong.MapperValue.
func (t *toggle) Decode(ctx *kong.DecodeContext) error {
	if ctx.Scan.Peek().Type != kong.FlagValueToken {
		*t = "true"
		return nil
	}
	*t = toggle(ctx.Scan.Pop().String())
	return nil
}

// IsBool implements kong.BoolMapperValue.
func (*toggle) IsBool() bool { return true }
