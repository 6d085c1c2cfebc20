package front

import (
	"bytes"
	"net/netip"
	"strings"
)

// hostList are the names by which streams may be asked for; none: any. A page whose own
// name was pointed at this machine (DNS rebinding) comes by that name, and so does who
// looks for servers that answer to everything.
type hostList []string

// newHostList takes names without ports, addresses without brackets.
func newHostList(names []string) hostList {
	list := make(hostList, len(names))
	for i, name := range names {
		list[i] = strings.ToLower(name)
	}
	return list
}

// allows reports whether a Host field, with or without a port, has one of the names.
func (l hostList) allows(host []byte) bool {
	if len(l) == 0 {
		return true
	}
	name := host
	if i := bytes.LastIndexByte(host, ':'); i >= 0 && bytes.IndexByte(host[i:], ']') < 0 {
		name = host[:i]
	}
	name = bytes.TrimSuffix(bytes.TrimPrefix(name, []byte("[")), []byte("]"))
	for _, allowed := range l {
		if len(name) == len(allowed) && strings.EqualFold(string(name), allowed) {
			return true
		}
	}
	return false
}

// CheckHosts reports what is wrong with Hosts.
func CheckHosts(names []string, bad func(field, format string, args ...any)) {
	for _, name := range names {
		if _, err := netip.ParseAddr(name); err == nil {
			continue
		}
		if name == "" || len(name) > 253 || strings.ContainsFunc(name, isNoHostByte) {
			bad("Hosts", "%.300q is not a name such as sse.example.com, without port, or an address", name)
		}
	}
}

func isNoHostByte(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
}
