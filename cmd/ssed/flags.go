package main

// flags are those of serve, as text, and with them the keys of the configuration
// file. Values are not parsed here: kong stops at the first bad one, and config names
// them all at once.
type flags struct {
	ConfigFile string `name:"config" group:"file" placeholder:"PATH" help:"YAML file of flags by name, such as redis-url: redis://127.0.0.1. Flags and environment variables win over it. Default: no file."`

	Listen           []string `group:"public" default:":8080" placeholder:"ADDR" help:"Public addresses: host:port, :port or unix:/path. Port 0 picks a free one."`
	ListenMode       string   `group:"public" placeholder:"MODE" help:"Permissions of unix sockets, such as 0660. Whoever may write may connect. Default: 0777 less the umask."`
	ReusePort        toggle   `group:"public" help:"Set SO_REUSEPORT, so that several processes can share a port."`
	MaxConnections   string   `group:"public" placeholder:"N" help:"Most open client connections, handshakes included. Default: the limit of open files less 256."`
	MaxPerAddress    string   `name:"max-connections-per-ip" group:"public" default:"0" placeholder:"N" help:"Most open connections of one client address (for IPv6, of its /64 network). Addresses of this machine and of --trusted-proxies have no limit. 0: no limit."`
	MaxPerSubject    string   `name:"max-connections-per-subject" group:"public" default:"0" placeholder:"N" help:"Most open streams of one subject on this instance. The token, or the service at --auth-url, names the subject. 0: no limit."`
	ConnectRate      string   `name:"connect-rate-per-ip" group:"public" default:"0" placeholder:"N[:BURST]" help:"New connections per second of one client address, and how many of them may come at once. BURST is ten times N, unless given. 0: no limit."`
	TrustedProxies   []string `group:"public" placeholder:"CIDR" help:"Addresses of proxies. ssed takes the client's address from their X-Forwarded-For or PROXY header. Give no network with other machines: they could name any client. With this set, unix sockets are trusted too."`
	ProxyProtocol    toggle   `group:"public" help:"Require a PROXY header, version 1 or 2, from --trusted-proxies, and refuse it from others. Its address counts then, and X-Forwarded-For does not."`
	PeerTimeout      string   `group:"public" default:"60s" placeholder:"TIME" help:"Close a client that acknowledges or takes nothing for this long (TCP_USER_TIMEOUT, and keep-alive probes where heartbeats are rarer). 0: the kernel decides, after up to a quarter of an hour."`
	HandshakeTimeout string   `group:"public" default:"5s" placeholder:"TIME" help:"Close a client that has not sent its whole request within this time."`
	MaxHead          string   `group:"public" default:"16KiB" placeholder:"BYTES" help:"Largest request head, with cookies: 16KiB to 64KiB. Proxies in front have limits of their own."`
	Drain            string   `group:"public" default:"10s" placeholder:"TIME" help:"On SIGTERM or SIGINT, close the open streams over this time. The process ends at most 5s later."`
	Hosts            []string `group:"public" placeholder:"NAME" help:"Answer requests for streams only by these host names, such as sse.example.com (no port). Others get 421. Default: any name."`
	CORSOrigins      []string `name:"cors-origins" group:"public" default:"*" placeholder:"ORIGIN" help:"Web origins whose pages may read streams: * or a list such as https://app.example.com."`
	CORSCredentials  toggle   `name:"cors-credentials" group:"public" help:"Allow cross-origin requests with cookies. With --cors-origins=* every web page may then read as its visitor."`

	Retry          string `group:"streams" default:"2s-5s" placeholder:"MIN-MAX" help:"How long clients wait before they reconnect. ssed draws a time between the two for each client."`
	StartID        string `name:"start-id" group:"streams" default:"auto" placeholder:"auto|on|off" help:"Begin a new stream with its position, an id without data. A client that is cut off before its first event then misses nothing. auto: for a browser's own EventSource. on: for all. off: for none. start=id or start=none in the query wins."`
	Chunked        string `group:"streams" default:"on" placeholder:"on|off" help:"Send streams in chunks to clients of HTTP/1.1. Without chunks some clients and proxies show events late. off: every stream ends with its connection."`
	Heartbeat      string `group:"streams" default:"15s" placeholder:"TIME" help:"Send a comment line after this much silence on a stream. 0: never."`
	HeartbeatEvent string `group:"streams" placeholder:"NAME" help:"Send heartbeats as events of this type, with empty data and no id, for clients that watch for them. Default: a comment line, which clients do not see."`
	MaxAge         string `group:"streams" default:"0" placeholder:"TIME" help:"Close a stream at this age, or up to a fifth earlier, at random. So clients spread over the instances again after a deploy. 0: never."`
	MaxChannels    string `name:"max-channels-per-connection" group:"streams" default:"32" placeholder:"N" help:"Most channels in one request, 1 to 1024."`
	Broadcast      string `name:"broadcast-channel" group:"streams" placeholder:"NAME" help:"Channel that every stream gets, besides those it asks for. --patterns must match it."`
	MaxMessage     string `name:"max-message-bytes" group:"streams" default:"1MiB" placeholder:"BYTES" help:"Largest message. In the place of a larger one, clients get event: gap with oversize. The same on every instance. Bytes, or with KiB, MiB, GiB."`
	RingBytes      string `group:"streams" default:"64MiB" placeholder:"BYTES" help:"Memory for recent messages, for slow and reconnecting clients. At least 256KiB."`
	Shards         string `group:"streams" placeholder:"N" help:"Number of event loops. Default: GOMAXPROCS, as a rule the number of cores."`

	Auth              string   `group:"access" placeholder:"jwt|forward" help:"Who may open streams. jwt: require a JSON Web Token. forward: ask the service at --auth-url. Default: everyone."`
	AuthJWTSecretFile string   `name:"auth-jwt-secret-file" group:"access" placeholder:"PATH" help:"File with the secret of HS256 tokens, at least 32 bytes. Or put the secret itself into SSED_AUTH_JWT_SECRET."`
	AuthJWTKeyFile    string   `name:"auth-jwt-key-file" group:"access" placeholder:"PATH" help:"PEM file with public keys or certificates, for RS256, ES256 and EdDSA."`
	AuthJWKSURL       string   `name:"auth-jwks-url" group:"access" placeholder:"URL" help:"Key set (JWKS) of the issuer. ssed fetches it again every five minutes, and for unknown key IDs."`
	AuthJWTAudience   []string `name:"auth-jwt-audience" group:"access" placeholder:"NAME" help:"Accept only tokens whose aud has one of these names. Default: not checked."`
	AuthJWTIssuer     string   `name:"auth-jwt-issuer" group:"access" placeholder:"NAME" help:"Accept only tokens whose iss is this name. Default: not checked."`
	AuthJWTLeeway     string   `name:"auth-jwt-leeway" group:"access" default:"5s" placeholder:"TIME" help:"How much the clock of the issuer may differ."`
	AuthCookie        string   `group:"access" placeholder:"NAME" help:"Also take the token from this cookie. Default: only from Authorization: Bearer."`
	AuthQuery         string   `group:"access" placeholder:"NAME" help:"Also take the token from this query parameter, or member of the body of a POST. Prefer the cookie: URLs end up in the logs of proxies."`
	AuthURL           string   `name:"auth-url" group:"access" placeholder:"URL" help:"Ask this service with a GET that has the fields of the request. 2xx lets the client in; any other answer goes to the client. X-SSE-Channels in the answer can narrow the channels."`
	AuthTimeout       string   `group:"access" default:"2s" placeholder:"TIME" help:"Longest wait for the service, or for a key set. After that the client gets 503."`
	AuthConcurrency   string   `group:"access" default:"64" placeholder:"N" help:"Most requests to the service at once. One client address has half of them at most. Sixteen times as many wait, and addresses take turns. The rest gets 503."`
	AuthCacheTTL      string   `name:"auth-cache-ttl" group:"access" default:"5s" placeholder:"TIME" help:"How long a grant of the service holds for the same request. A denial holds for a second at most. 0: ask each time."`
	AuthRequireExp    toggle   `group:"access" help:"Refuse tokens without exp, and answers of the service without X-SSE-Expires, so that every stream has an end."`
	AuthProxyEnv      toggle   `group:"access" help:"Ask the service and fetch the key set through the proxy in HTTP_PROXY and HTTPS_PROXY. That proxy sees what clients send."`
	ChannelsAllow     []string `group:"access" placeholder:"GLOB" help:"Channels that clients may ask for, whatever their token says. Default: all."`
	ChannelsDeny      []string `group:"access" placeholder:"GLOB" help:"Channels that clients may not ask for."`

	RedisURL     string   `name:"redis-url" group:"redis" placeholder:"URL" help:"redis://user:password@host:6379/0, also rediss:// and unix://. With Sentinels: redis://host:26379?addr=host2:26379&master_set=NAME. With Redis Cluster: redis://host:6379?addr=host2:6379, some of its nodes. Without a URL ssed runs embedded. Other users see the command line: give a password by environment or file."`
	RedisURLFile string   `name:"redis-url-file" group:"redis" placeholder:"PATH" help:"File that holds the URL."`
	RedisCA      string   `name:"redis-ca" group:"redis" placeholder:"PATH" help:"PEM file of the authorities that signed the certificate of a rediss:// server. Default: those of the system. Do not use skip_verify=true in the URL instead: anybody on the way could then read and change everything."`
	RedisCert    string   `group:"redis" placeholder:"PATH" help:"PEM file with the certificate that ssed shows to Redis, and the chain to its authority. ssed reads it again for each connection."`
	RedisKey     string   `group:"redis" placeholder:"PATH" help:"PEM file with the key of that certificate."`
	Patterns     []string `group:"redis" default:"*" placeholder:"GLOB" help:"Channels to deliver, as for PSUBSCRIBE. The same on every instance."`
	Feed         string   `group:"redis" default:"pattern" placeholder:"pattern|sharded" help:"pattern: backends PUBLISH each message on its channel. sharded: they SPUBLISH every message on sse:{8209}, as channel, line feed and payload (with --partitions, see ssed partition). On a Redis Cluster that costs Redis a third of the CPU time. The same on every instance."`
	Partitions   string   `group:"redis" default:"1" placeholder:"N" help:"Divide the channels into this many parts, 64 at most. Each part has its own order, history and hash slot, so several primaries of a Redis Cluster share the work. It takes --feed=sharded. The same on every instance; another number needs another --stream-prefix."`
	Envelope     string   `group:"redis" default:"off" placeholder:"off|json" help:"json: a payload may be a JSON object with data, and optionally event, id and retry (and the socket that Laravel sends). Clients get an event of that type and id. All other payloads stay as they are. The same on every instance."`
	BatchChannel string   `group:"redis" placeholder:"NAME" help:"Channel for batches: one message carries many, which costs Redis less. POST /api/batch and the inbox use it. Whoever may publish on it in Redis may publish on every channel. The same on every instance. Default: none."`
	StreamPrefix string   `group:"redis" default:"sse:stream:" placeholder:"TEXT" help:"Prefix of the keys: the history of channel user123 is the stream sse:stream:user123. The same on every instance."`
	Instance     string   `group:"redis" placeholder:"NAME" help:"Name of this process in Redis and logs. Default: host, process id and a random part."`
	RedisFeeds   string   `group:"redis" default:"1" placeholder:"N" help:"Subscriptions to Redis, 1 or 2. With two, losing one connection loses no message; the traffic doubles."`
	TickInterval string   `group:"redis" default:"100ms" placeholder:"TIME" help:"Time between two ticks of the common clock, over all instances."`
	ProbeTimeout string   `group:"redis" default:"2s" placeholder:"TIME" help:"Reconnect to Redis when nothing arrives on a subscription for this long. ssed is not ready meanwhile."`

	History        string `group:"history" default:"on" placeholder:"on|off" help:"Keep messages in Redis for clients that reconnect. off: keep them in memory only."`
	Inbox          string `group:"history" default:"auto" placeholder:"KEY" help:"Stream to which backends XADD channel and data. Nothing is lost while no instance runs. The same on every instance, and another one for each --stream-prefix. auto: sse:inbox for the prefix sse:stream:, app:inbox for app:stream:, and inbox:chat: for a prefix such as chat:. It needs --history=on. off turns it off."`
	HistoryMax     string `group:"history" default:"100" placeholder:"N" help:"Messages to keep per channel, at least. Redis trims in steps of up to 100. Clients may ask for as many with last=N, or for more where a policy keeps more."`
	HistoryWindow  string `group:"history" default:"auto" placeholder:"TIME" help:"Also keep all messages younger than this, up to --history-cap. So clients that change to another instance miss nothing. auto: the sum of the longest --retry, --drain and 15s. 0: --history-max alone counts."`
	HistoryCap     string `group:"history" default:"50000" placeholder:"N" help:"Most messages to keep per channel, whatever --history-window says."`
	HistoryTTL     string `name:"history-ttl" group:"history" default:"1h" placeholder:"TIME" help:"Delete a channel's history when no message came for this long."`
	BatchSize      string `group:"history" default:"100" placeholder:"N" help:"Most messages written to Redis at once."`
	FlushInterval  string `group:"history" default:"10ms" placeholder:"TIME" help:"The writer of the history spreads its work over this time, in small batches, while it keeps up."`
	GapWait        string `group:"history" default:"1s" placeholder:"TIME" help:"If no instance has the messages that the history needs next, wait this long for one that has them. Then write a gap. At least 250ms. If all instances have said that they lack them, the gap comes at once."`
	HistoryWait    string `group:"history" default:"3s" placeholder:"TIME" help:"How long a resume waits until the history is written far enough. After that the client gets a gap event."`
	HistoryReaders string `group:"history" default:"16" placeholder:"N" help:"Most reads of the history at once."`

	Policy []string `group:"history" sep:";" placeholder:"GLOB=NAME:VALUE,…" help:"Settings for the channels that match a glob, such as chat:*=history-max:10000,history-ttl:10m or price:*=slow:latest. Names: history-max, history-ttl, history-window, history (off), and slow (what a reader that is behind gets: all, latest or close). Repeat the flag, or put ; between. The first that matches a channel counts. In the file: a list, policies. The same on every instance."`

	Admin          string `group:"admin" default:"127.0.0.1:9090" placeholder:"ADDR" help:"Listener for the dashboard, the API, POST /publish, /metrics, /health and /ready. off turns it off."`
	AdminToken     string `group:"admin" placeholder:"TEXT" help:"Token for the admin listener, which allows everything. Programs send it as bearer token, browsers as password. /health and /ready need none. Other users see the command line: give it by environment or file."`
	AdminTokenFile string `group:"admin" placeholder:"PATH" help:"File of tokens, one on a line: a token alone, or a role (publish, read or all), the token and a name for the log. ssed reads it again when it changes."`
	Pprof          toggle `group:"admin" help:"Serve /debug/pprof on the admin listener."`

	PublishListen        string `group:"admin" placeholder:"ADDR" help:"Listener for backends: POST /publish, /api/send and /api/batch, GET /api/position. They need a JSON Web Token whose claim publish lists the channels. Default: none."`
	PublishJWTSecretFile string `name:"publish-jwt-secret-file" group:"admin" placeholder:"PATH" help:"File with the secret of these tokens, at least 32 bytes. Default: the keys of --auth jwt."`
	PublishJWTKeyFile    string `name:"publish-jwt-key-file" group:"admin" placeholder:"PATH" help:"PEM file with public keys or certificates for these tokens. Default: the keys of --auth jwt."`

	LogLevel  string `group:"logging" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error."`
	LogFormat string `group:"logging" default:"text" placeholder:"text|json" help:"Form of the lines on standard error."`

	TestClockOffset string `hidden:"" default:"0s" help:"Added to the time of Redis in this instance's ticks. For fault injection."`
}
