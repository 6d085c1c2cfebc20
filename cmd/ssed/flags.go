package main

// flags are those of serve, as text, and with them the keys of the configuration
// file. Values are not parsed here: kong stops at the first bad one, and config names
// them all at once.
type flags struct {
	ConfigFile string `name:"config" group:"file" placeholder:"PATH" help:"YAML file with flags by their names, such as redis-url: redis://127.0.0.1. Flags and the environment go before it. Without this none is read."`

	Listen           []string `group:"public" default:":8080" placeholder:"ADDR" help:"Public addresses: host:port, :port or unix:/path. Port 0 picks a free one."`
	ListenMode       string   `group:"public" placeholder:"MODE" help:"Permissions of unix sockets, such as 0660: who may write may connect. Default: 0777 less the umask."`
	ReusePort        toggle   `group:"public" help:"Set SO_REUSEPORT, so that several processes can share a port."`
	MaxConnections   string   `group:"public" placeholder:"N" help:"Open client connections, handshakes included. Default: the limit of open files less 256."`
	MaxPerAddress    string   `name:"max-connections-per-ip" group:"public" default:"0" placeholder:"N" help:"Open connections of one client address, IPv6 by its /64. 0: no limit. Addresses of this machine and of --trusted-proxies are not limited."`
	MaxPerSubject    string   `name:"max-connections-per-subject" group:"public" default:"0" placeholder:"N" help:"Open streams of one subject on this instance; the token or the service at --auth-url names it. 0: no limit."`
	ConnectRate      string   `name:"connect-rate-per-ip" group:"public" default:"0" placeholder:"N[:BURST]" help:"New connections per second of one client address, and how many may come at once (ten times as many, unless given). 0: no limit."`
	TrustedProxies   []string `group:"public" placeholder:"CIDR" help:"Addresses of proxies, or networks that hold nothing else, whose X-Forwarded-For (or PROXY header) tells the client: whoever is in them can name any client. A unix socket is trusted when this is set."`
	ProxyProtocol    toggle   `group:"public" help:"Require a PROXY header, version 1 or 2, of every connection from --trusted-proxies. Its address counts, X-Forwarded-For no longer does. From others it is refused."`
	PeerTimeout      string   `group:"public" default:"60s" placeholder:"TIME" help:"A client that acknowledges nothing, or takes nothing, for so long is gone (TCP_USER_TIMEOUT; keep-alive probes where heartbeats are rarer than that). 0: as the kernel is set, which can be a quarter of an hour."`
	HandshakeTimeout string   `group:"public" default:"5s" placeholder:"TIME" help:"From accept to the last byte of the request; slower clients are closed."`
	MaxHead          string   `group:"public" default:"16KiB" placeholder:"BYTES" help:"Largest request head: channels and fields, with cookies. 16KiB to 64KiB. Proxies in front have limits of their own."`
	Drain            string   `group:"public" default:"10s" placeholder:"TIME" help:"On SIGTERM or SIGINT, the window over which open streams are closed. The process ends at most 5s after it."`
	Hosts            []string `group:"public" placeholder:"NAME" help:"Host names by which streams may be asked for, such as sse.example.com, without port. Others get 421. Default: any."`
	CORSOrigins      []string `name:"cors-origins" group:"public" default:"*" placeholder:"ORIGIN" help:"Web origins that may read: * or a list such as https://app.example.com."`
	CORSCredentials  toggle   `name:"cors-credentials" group:"public" help:"Allow cross-origin requests with cookies: the origin is echoed, even where --cors-origins is *."`

	Retry          string `group:"streams" default:"2s-5s" placeholder:"MIN-MAX" help:"Reconnection delay told to clients, drawn for each between the two."`
	StartID        string `name:"start-id" group:"streams" default:"auto" placeholder:"auto|on|off" help:"Begin a new stream with its position, as an id without data, so that a client cut off before its first event misses nothing. auto: for a browser's own EventSource. start=id or start=none in the query goes before it."`
	Chunked        string `group:"streams" default:"on" placeholder:"on|off" help:"Send streams in chunks to clients of HTTP/1.1. Without them some clients and proxies show events late, or when the stream ends. off: every stream ends with its connection."`
	Heartbeat      string `group:"streams" default:"15s" placeholder:"TIME" help:"Longest silence on a stream; then a comment line is sent. 0 turns it off."`
	HeartbeatEvent string `group:"streams" placeholder:"NAME" help:"Send heartbeats as events of this type, with empty data and no id, for clients that watch for them. Default: a comment line, which clients do not see."`
	MaxAge         string `group:"streams" default:"0" placeholder:"TIME" help:"Streams are closed at this age, less up to a fifth drawn for each, so that clients spread over the instances again after a deploy. 0: never."`
	MaxChannels    string `name:"max-channels-per-connection" group:"streams" default:"32" placeholder:"N" help:"Values of channel_id in one request, 1 to 1024."`
	Broadcast      string `name:"broadcast-channel" group:"streams" placeholder:"NAME" help:"Channel that every stream gets beside those it asked for, whoever its client is. --patterns must match it."`
	MaxMessage     string `name:"max-message-bytes" group:"streams" default:"1MiB" placeholder:"BYTES" help:"Who reads the channel gets event: gap with oversize in the place of a larger one. The same on every instance. Bytes, or with KiB, MiB, GiB."`
	RingBytes      string `group:"streams" default:"64MiB" placeholder:"BYTES" help:"Memory for recent messages, which serves slow and reconnecting clients. At least 256KiB."`
	Shards         string `group:"streams" placeholder:"N" help:"Event loops. Default: GOMAXPROCS."`

	Auth              string   `group:"access" placeholder:"jwt|forward" help:"Who may open streams. jwt: require a JSON Web Token. forward: ask the service at --auth-url. Default: everyone."`
	AuthJWTSecretFile string   `name:"auth-jwt-secret-file" group:"access" placeholder:"PATH" help:"File with the secret of HS256 tokens, at least 32 bytes; or $SSED_AUTH_JWT_SECRET itself."`
	AuthJWTKeyFile    string   `name:"auth-jwt-key-file" group:"access" placeholder:"PATH" help:"PEM file with public keys or certificates, for RS256, ES256 and EdDSA."`
	AuthJWKSURL       string   `name:"auth-jwks-url" group:"access" placeholder:"URL" help:"Key set of the issuer, fetched again every five minutes and for unknown key ids."`
	AuthJWTAudience   []string `name:"auth-jwt-audience" group:"access" placeholder:"NAME" help:"Audiences: aud of a token must have one of them. Default: not checked."`
	AuthJWTIssuer     string   `name:"auth-jwt-issuer" group:"access" placeholder:"NAME" help:"Issuer: iss of a token must be this name. Default: not checked."`
	AuthJWTLeeway     string   `name:"auth-jwt-leeway" group:"access" default:"5s" placeholder:"TIME" help:"By how much the clock of the issuer may be off."`
	AuthCookie        string   `group:"access" placeholder:"NAME" help:"Cookie that may have the token. Default: only Authorization: Bearer."`
	AuthQuery         string   `group:"access" placeholder:"NAME" help:"Query parameter, or member of the body of a POST, that may have the token. URLs end up in the logs of proxies: prefer the cookie."`
	AuthURL           string   `name:"auth-url" group:"access" placeholder:"URL" help:"Service that is asked by a GET with the fields of the request; 2xx admits, other answers are passed on. X-SSE-Channels in the answer may narrow the channels."`
	AuthTimeout       string   `group:"access" default:"2s" placeholder:"TIME" help:"Longest wait for the service, or for a key set. Then 503: never a stream."`
	AuthConcurrency   string   `group:"access" default:"64" placeholder:"N" help:"Requests to the service at once; one client address has half of them at most. Sixteen times as many wait, in turns by address; the rest gets 503."`
	AuthCacheTTL      string   `name:"auth-cache-ttl" group:"access" default:"5s" placeholder:"TIME" help:"How long what the service granted holds for the same request; what it denied holds for a second at most. 0: not at all."`
	AuthRequireExp    toggle   `group:"access" help:"Refuse tokens without exp, and answers of the service without X-SSE-Expires: every stream has an end."`
	AuthProxyEnv      toggle   `group:"access" help:"Ask the service and fetch the key set through the proxy that HTTP_PROXY and HTTPS_PROXY name. It sees what clients send."`
	ChannelsAllow     []string `group:"access" placeholder:"GLOB" help:"Channels that may be asked for, by everyone. Default: all."`
	ChannelsDeny      []string `group:"access" placeholder:"GLOB" help:"Channels that may not be asked for."`

	RedisURL     string   `name:"redis-url" group:"redis" placeholder:"URL" help:"redis://user:password@host:6379/0, also rediss:// and unix://. With Sentinels: redis://host:26379?addr=host2:26379&master_set=NAME. With Redis Cluster: redis://host:6379?addr=host2:6379, some of its nodes. Without a URL ssed runs embedded. The command line is visible to other users: give a password by environment or file."`
	RedisURLFile string   `name:"redis-url-file" group:"redis" placeholder:"PATH" help:"File that holds the URL."`
	RedisCA      string   `name:"redis-ca" group:"redis" placeholder:"PATH" help:"PEM file of the authorities that certify the servers of a rediss:// URL. Default: those of the system. With skip_verify=true in the URL nothing is verified: whoever is on the way can read and change everything."`
	RedisCert    string   `group:"redis" placeholder:"PATH" help:"PEM file with the certificate that ssed shows to Redis, and what leads to its authority. Read again for each connection."`
	RedisKey     string   `group:"redis" placeholder:"PATH" help:"PEM file with the key of that certificate."`
	Patterns     []string `group:"redis" default:"*" placeholder:"GLOB" help:"Channels to deliver, as for PSUBSCRIBE. The same on every instance."`
	Feed         string   `group:"redis" default:"pattern" placeholder:"pattern|sharded" help:"pattern: backends PUBLISH each message on its channel. sharded: they SPUBLISH all of them on sse:{8209}, the channel, a line feed and the payload, which costs a Redis Cluster a third. The same on every instance."`
	Envelope     string   `group:"redis" default:"off" placeholder:"off|json" help:"json: a payload that is a JSON object of data and optionally event, id and retry (and the socket that Laravel sends) is an event of that type and id; all others stay as they are. The same on every instance."`
	BatchChannel string   `group:"redis" placeholder:"NAME" help:"Channel of which each message carries many, which costs Redis less. POST /api/batch and the inbox use it. Who may publish on it in Redis may publish on every channel. The same on every instance. Default: none."`
	StreamPrefix string   `group:"redis" default:"sse:stream:" placeholder:"TEXT" help:"Keys: the history of a channel is the stream at prefix plus channel. The same on every instance."`
	Instance     string   `group:"redis" placeholder:"NAME" help:"Name of this process in Redis and logs. Default: host, process id and a random part."`
	RedisFeeds   string   `group:"redis" default:"1" placeholder:"N" help:"Pub/Sub links to Redis, 1 or 2. Two are merged by message id: the loss of one then loses nothing, at twice the traffic."`
	TickInterval string   `group:"redis" default:"100ms" placeholder:"TIME" help:"Time between two ticks of the common clock, over all instances."`
	ProbeTimeout string   `group:"redis" default:"2s" placeholder:"TIME" help:"Reconnect to Redis when nothing arrives on a subscription for this long. ssed is not ready meanwhile."`

	History        string `group:"history" default:"on" placeholder:"on|off" help:"Keep messages in Redis for clients that reconnect. Off: only what is in memory."`
	Inbox          string `group:"history" default:"auto" placeholder:"KEY" help:"Stream to which backends XADD channel and data, so that nothing is lost while no instance runs. The same on every instance, and of this --stream-prefix alone. auto is sse:inbox for the prefix sse:stream:, app:inbox for app:stream:, and inbox:chat: for a prefix such as chat:. off turns it off; it takes --history=on."`
	HistoryMax     string `group:"history" default:"100" placeholder:"N" help:"Messages kept per channel at least; Redis trims in steps of up to 100. Also the most that last=N may ask for, unless a policy keeps more."`
	HistoryWindow  string `group:"history" default:"auto" placeholder:"TIME" help:"Messages younger than that are kept as well, up to --history-cap, so that clients who change to another instance miss nothing. auto: the longest time of --retry, --drain and 15s. 0: --history-max alone counts."`
	HistoryCap     string `group:"history" default:"50000" placeholder:"N" help:"Most messages kept per channel, whatever --history-window says."`
	HistoryTTL     string `name:"history-ttl" group:"history" default:"1h" placeholder:"TIME" help:"Delete a channel's history when no message came for this long."`
	BatchSize      string `group:"history" default:"100" placeholder:"N" help:"Most messages written to Redis at once."`
	FlushInterval  string `group:"history" default:"10ms" placeholder:"TIME" help:"Over how long the writer spreads what it has to write, in small batches, while it keeps up."`
	GapWait        string `group:"history" default:"1s" placeholder:"TIME" help:"When no instance can go on where the history ends, the missing stretch is given up: at once when all that are there have said so, else after this. At least 250ms."`
	HistoryWait    string `group:"history" default:"3s" placeholder:"TIME" help:"How long a resume waits until the history is written up to what is in memory; then a gap event."`
	HistoryReaders string `group:"history" default:"16" placeholder:"N" help:"Concurrent reads of the history."`

	Policy []string `group:"history" sep:";" placeholder:"GLOB=NAME:VALUE,…" help:"What holds for channels that match, such as chat:*=history-max:10000,history-ttl:10m or price:*=slow:latest. Names are history-max, history-ttl, history-window, history (off) and slow (all, latest or close: what a reader that is behind gets). Repeat the flag, or put ; between. The first that matches a channel counts. In the file: a list, policies. The same on every instance."`

	Admin          string `group:"admin" default:"127.0.0.1:9090" placeholder:"ADDR" help:"Listener for the dashboard, the API, POST /publish, /metrics, /health and /ready. off turns it off."`
	AdminToken     string `group:"admin" placeholder:"TEXT" help:"Token for the admin listener: programs send it as bearer token, browsers as password. It allows everything. /health and /ready need none. The command line is visible to other users: give it by environment or file."`
	AdminTokenFile string `group:"admin" placeholder:"PATH" help:"File of tokens, one on a line: a token alone, or a role (publish, read or all), the token and a name for the log. It is read again when it changes."`
	Pprof          toggle `group:"admin" help:"Serve /debug/pprof on the admin listener."`

	PublishListen        string `group:"admin" placeholder:"ADDR" help:"Listener on which backends publish, with a JSON Web Token whose claim publish lists the channels: POST /publish, /api/send and /api/batch, GET /api/position. Default: none."`
	PublishJWTSecretFile string `name:"publish-jwt-secret-file" group:"admin" placeholder:"PATH" help:"File with the secret of these tokens, at least 32 bytes. Default: the keys of --auth jwt."`
	PublishJWTKeyFile    string `name:"publish-jwt-key-file" group:"admin" placeholder:"PATH" help:"PEM file with public keys or certificates for these tokens. Default: the keys of --auth jwt."`

	LogLevel  string `group:"logging" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error."`
	LogFormat string `group:"logging" default:"text" placeholder:"text|json" help:"Form of the lines on standard error."`

	TestClockOffset string `hidden:"" default:"0s" help:"Added to the time of Redis in this instance's ticks. For fault injection."`
}
