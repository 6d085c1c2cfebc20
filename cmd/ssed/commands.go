package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// commandLine is the grammar: one field for each subcommand. What stands without
// one is for serve.
type commandLine struct {
	Serve     serveCommand     `cmd:"" default:"withargs" help:"Run the gateway (default command)."`
	Doctor    doctorCommand    `cmd:"" help:"Check this machine, Redis and a proxy, and say what to change."`
	Tail      tailCommand      `cmd:"" help:"Follow channels at a terminal."`
	Pub       pubCommand       `cmd:"" help:"Publish at a terminal."`
	Partition partitionCommand `cmd:"" help:"Print the partition of a channel, and its names in Redis."`
	Config    configCommand    `cmd:"" help:"Print the effective configuration as a file, and where each value comes from."`

	Version struct{} `cmd:"" help:"Print the version."`

	ShowVersion bool `name:"version" help:"Print the version and exit." env:"-"`
}

const description = `Delivers what backends PUBLISH on Redis to browsers as Server-Sent Events. Without --redis-url it keeps messages in memory and takes them by POST /publish on the admin listener.`

type serveCommand struct{ flags }

// Help implements kong.HelpProvider.
func (serveCommand) Help() string {
	return `Give lists as repeated flags, or with commas. Times: 500ms, 10s, 1h. A flag wins over its environment variable, and that over the file of --config.`
}

// invocation is a command line that kong has understood.
type invocation struct {
	command string // name of the subcommand
	node    *kong.Node
	known   map[string]*kong.Flag // flags of serve: what the configuration file may have
	origins map[string]origin     // by the name of a flag of node; absent: its default
	unknown []string              // variables that look like those of flags, and are not
}

// origin tells where the value of a flag comes from.
type origin string

const (
	fromDefault origin = "default"
	fromFlag    origin = "flag"
)

// rank is higher for a source that goes before another.
func (o origin) rank() int {
	switch {
	case o == fromFlag:
		return 3
	case strings.HasPrefix(string(o), "$"):
		return 2
	case o == fromDefault:
		return 0
	}
	return 1 // a line of the file
}

func (inv *invocation) origin(flag string) origin {
	if o, ok := inv.origins[flag]; ok {
		return o
	}
	return fromDefault
}

// secretPairs are the secrets that can be given as text or by a file: two flags of one setting.
var secretPairs = [][2]string{{"redis-url", "redis-url-file"}, {"admin-token", "admin-token-file"}}

// complete takes what the file gives, unless path is empty, and makes one setting of
// each pair: of two that come from different sources the one that goes before counts.
// Two from the same source stay, for config to refuse.
func (inv *invocation) complete(path string) (err error) {
	if path != "" {
		err = inv.applyFile(path)
	}
	for _, pair := range secretPairs {
		text, file := inv.origin(pair[0]).rank(), inv.origin(pair[1]).rank()
		switch {
		case text > file:
			inv.unset(pair[1])
		case file > text:
			inv.unset(pair[0])
		}
	}
	return err
}

// unset makes as if the flag, which has no default, had not been given anywhere.
func (inv *invocation) unset(name string) {
	inv.set(name, []string{""})
	delete(inv.origins, name)
}

// parse reads args and the environment. It ends the process after --help.
func (c *commandLine) parse(args []string, stdout io.Writer) (*invocation, error) {
	parser, err := newParser(c, stdout)
	if err != nil {
		return nil, err
	}
	_ = kong.Visit(parser.Model.Node, func(v kong.Visitable, next kong.Next) error {
		if flag, ok := v.(*kong.Flag); ok {
			unsetEmpty(flag.Tag.Envs)
		}
		return next(nil)
	})
	ctx, err := parser.Parse(args)
	if err != nil {
		return nil, err
	}
	inv := newInvocation(parser, ctx)
	inv.unknown = unknownVariables(parser)
	return inv, nil
}

// unknownVariables are the names in the environment that begin like those of flags and
// belong to none: a typing error, or what Kubernetes sets for a Service named ssed.
func unknownVariables(parser *kong.Kong) []string {
	known := map[string]bool{envJWTSecret: true, envToken: true}
	_ = kong.Visit(parser.Model.Node, func(v kong.Visitable, next kong.Next) error {
		if flag, ok := v.(*kong.Flag); ok {
			for _, env := range flag.Tag.Envs {
				known[env] = true
			}
		}
		return next(nil)
	})
	var unknown []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, "SSED_") && !known[name] {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return unknown
}

// unsetEmpty is there because kong takes an empty variable for a value, which in a
// compose file it hardly is.
func unsetEmpty(envs []string) {
	for _, env := range envs {
		if os.Getenv(env) == "" {
			os.Unsetenv(env)
		}
	}
}

func newInvocation(parser *kong.Kong, ctx *kong.Context) *invocation {
	node := ctx.Selected()
	inv := &invocation{command: node.Name, node: node, known: fileKeys(parser), origins: map[string]origin{}}
	for _, flag := range node.Flags {
		for _, env := range flag.Tag.Envs {
			if _, ok := os.LookupEnv(env); ok {
				inv.origins[flag.Name] = origin("$" + env)
			}
		}
	}
	for _, given := range ctx.Path {
		if given.Flag != nil {
			inv.origins[given.Flag.Name] = fromFlag
		}
	}
	return inv
}

// fileKeys are the flags of serve by name, but for the one that names the file.
func fileKeys(parser *kong.Kong) map[string]*kong.Flag {
	keys := map[string]*kong.Flag{}
	for _, flag := range commandNode(parser, "serve").Flags {
		if flag.Name != "config" && !flag.Hidden {
			keys[fileKey(flag.Name)] = flag
		}
	}
	return keys
}

func commandNode(parser *kong.Kong, name string) *kong.Node {
	for _, node := range parser.Model.Children {
		if node.Name == name {
			return node
		}
	}
	panic("no command " + name)
}

// groups are those of the flags of serve, in the order of its help.
var groups = []kong.Group{
	{Key: "file", Title: "Configuration file:"},
	{Key: "public", Title: "Public port:"},
	{Key: "streams", Title: "Streams and messages:"},
	{Key: "access", Title: "Access:"},
	{Key: "redis", Title: "Redis:"},
	{Key: "history", Title: "History (with Redis):"},
	{Key: "admin", Title: "Admin listener:"},
	{Key: "logging", Title: "Logging:"},
}

func newParser(c *commandLine, stdout io.Writer) (*kong.Kong, error) {
	var commands []*kong.Node
	parser, err := kong.New(c,
		kong.Name("ssed"),
		kong.Description(description),
		kong.DefaultEnvars("SSED"),
		kong.ExplicitGroups(groups),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.ValueFormatter(helpOf),
		kong.Writers(stdout, stdout),
		// As its last step New looks for variables in every text, with a regular expression. That
		// was a third of the work of a start, and our texts have none: it gets no commands to search.
		kong.PostBuild(func(k *kong.Kong) error {
			commands, k.Model.Children = k.Model.Children, nil
			return nil
		}),
	)
	if err != nil {
		return nil, err
	}
	parser.Model.Children = commands
	hideCopies(parser)
	return parser, nil
}

// hideCopies leaves the flags of serve out of the help of commands that take them
// all: their help tells of their own.
func hideCopies(parser *kong.Kong) {
	for _, node := range parser.Model.Children {
		if node.Name == "serve" {
			continue
		}
		for _, flag := range node.Flags {
			if flag.Group != nil && flag.Group.Key != "file" {
				flag.Hidden = true
			}
		}
	}
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
	*t = toggle(fmt.Sprint(ctx.Scan.Pop().Value))
	return nil
}

// IsBool implements kong.BoolMapperValue.
func (*toggle) IsBool() bool { return true }
