# snippet
vcl 4.1;

backend ssed {
    .host = "127.0.0.1";
    .port = "8080";
    .between_bytes_timeout = 60s;
}

sub vcl_recv {
    if (req.url ~ "^/sse/") {
        return (pipe);
    }
}
# end
