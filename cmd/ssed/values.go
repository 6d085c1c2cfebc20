package main

import (
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"ssed"
	"ssed/internal/admin"
	"ssed/internal/redisconn"
)

// problems collects what is wrong with the flags. A method that adds to it
// returns a value of no meaning.
type problems []error

func (p *problems) add(flag, format string, args ...any) {
	*p = append(*p, fmt.Errorf(flag+": "+format, args...))
}

// duration reads a time. What is refused is 0, of which packages do not complain again.
func (p *problems) duration(flag, text string, least time.Duration) time.Duration {
	d, err := time.ParseDuration(text)
	switch {
	case err != nil && text != "0":
		p.add(flag, "%q is not a time such as 500ms, 10s or 1h", text)
	case d < least:
		p.add(flag, "%v is less than %v", d, least)
	default:
		return d
	}
	return 0
}

// positive reads a time of which 0 has no meaning here, and is the default of the
// package. What else is the least, the package knows.
func (p *problems) positive(flag, text string) time.Duration {
	before := len(*p)
	d := p.duration(flag, text, 0)
	if d == 0 && len(*p) == before {
		p.add(flag, "it must be more than 0")
	}
	return d
}

// durationOrOff reads a time of which 0 means none, where a package takes a
// negative one for that and 0 for its default.
func (p *problems) durationOrOff(flag, text string) time.Duration {
	d := p.duration(flag, text, 0)
	if d == 0 {
		return -1
	}
	return d
}

// window reads --history-window.
func (p *problems) window(text string) time.Duration {
	if text == "auto" {
		return 0
	}
	return p.durationOrOff("--history-window", text)
}

// retry reads "2s-5s", or "2s" for no spread.
func (p *problems) retry(text string) (least, most time.Duration) {
	first, second, isRange := strings.Cut(text, "-")
	least, err := time.ParseDuration(strings.TrimSpace(first))
	most = least
	if isRange && err == nil {
		most, err = time.ParseDuration(strings.TrimSpace(second))
	}
	switch {
	case err != nil:
		p.add("--retry", "%q is not a range of times such as 2s-5s", text)
	case least < time.Millisecond || most < least:
		p.add("--retry", "%q: the first must be at least 1ms and not more than the second", text)
	default:
		return least, most
	}
	return 0, 0
}

func (p *problems) count(flag, text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		p.add(flag, "%q is not a whole number of at least 1", text)
		return 1
	}
	return n
}

// number is count with 0 for no limit.
func (p *problems) number(flag, text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		p.add(flag, "%q is not a whole number", text)
		return 0
	}
	return n
}

// rate reads "N" or "N:BURST".
func (p *problems) rate(flag, text string) (perSecond, burst int) {
	first, second, hasBurst := strings.Cut(text, ":")
	perSecond = p.number(flag, first)
	if hasBurst {
		burst = p.count(flag, second)
	}
	return perSecond, burst
}

// networks reads networks, or single addresses.
func (p *problems) networks(flag string, list []string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range list {
		prefix, err := netip.ParsePrefix(text)
		if addr, addrErr := netip.ParseAddr(text); err != nil && addrErr == nil && addr.Zone() == "" {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			p.add(flag, "%q is not a network or an address such as 192.0.2.1 or 192.0.2.0/24", text)
			continue
		}
		all = append(all, prefix.Masked())
	}
	return all
}

// mode reads permissions as chmod does, in octal; 0 for a flag that was not given.
func (p *problems) mode(flag, text string) fs.FileMode {
	if text == "" {
		return 0
	}
	n, err := strconv.ParseUint(text, 8, 32)
	if err != nil || n == 0 || n > uint64(fs.ModePerm) {
		p.add(flag, "%q is not the octal digits of permissions, such as 0660", text)
		return 0
	}
	return fs.FileMode(n)
}

// optionalCount returns 0 for a flag that was not given.
func (p *problems) optionalCount(flag, text string) int {
	if text == "" {
		return 0
	}
	return p.count(flag, text)
}

func (p *problems) bytes(flag, text string, least, most int64) int64 {
	number, shift := strings.TrimSpace(text), 0
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if n, found := strings.CutSuffix(number, unit); found {
			number, shift = strings.TrimSpace(n), 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	switch {
	case err != nil || n < 0 || n > 1<<62>>shift:
		p.add(flag, "%q is not a number of bytes such as 65536, 64KiB, 1MiB or 2GiB", text)
	case n<<shift < least:
		p.add(flag, "%s is less than %d bytes", text, least)
	case n<<shift > most:
		p.add(flag, "%s is more than %d bytes", text, most)
	default:
		return n << shift
	}
	return 0
}

func (p *problems) toggle(flag string, text toggle) bool {
	switch strings.ToLower(string(text)) {
	case "true", "1", "yes", "on":
		return true
	case "", "false", "0", "no", "off":
		return false
	}
	p.add(flag, "%q is neither true nor false", string(text))
	return false
}

func (p *problems) choice(flag, text string, options ...string) string {
	for _, option := range options {
		if strings.EqualFold(text, option) {
			return option
		}
	}
	p.add(flag, "%q is not one of %s", text, strings.Join(options, ", "))
	return ""
}

func (p *problems) startID(text string) ssed.StartID {
	switch p.choice("--start-id", text, "auto", "on", "off") {
	case "on":
		return ssed.StartIDOn
	case "off":
		return ssed.StartIDOff
	}
	return ssed.StartIDAuto
}

func (p *problems) level(text string) slog.Level {
	var level slog.Level
	name := p.choice("--log-level", text, "debug", "info", "warn", "error")
	_ = level.UnmarshalText([]byte(name)) // all four are slog's own names
	return level
}

// given is a list that counts as given even when it is empty: the engine would take
// no list for its default.
func given(list []string) []string { return append([]string{}, list...) }

func (p *problems) adminAddr(text string) string {
	if text == "off" {
		return ""
	}
	return p.address("--admin", text)
}

func (p *problems) publishAddr(text string) string {
	if text == "" {
		return ""
	}
	return p.address("--publish-listen", text)
}

func (p *problems) address(flag, text string) string {
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		p.add(flag, "%q is not an address such as 127.0.0.1:9090, [::1]:9090 or :9090", text)
	} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		p.add(flag, "%q: the port is not a number from 0 to 65535", text)
	}
	return text
}

// adminTokens never repeats what it checks.
func (p *problems) adminTokens(text, path string) []admin.Token {
	if path == "" {
		if text == "" {
			return nil
		}
		if err := admin.CheckToken(text); err != nil {
			p.add("--admin-token", "%w", err)
		}
		return []admin.Token{{Role: admin.RoleAll, Name: string(admin.RoleAll), Text: text}}
	}
	if text != "" {
		p.add("--admin-token-file", "only one of it and --admin-token can be given")
		return nil
	}
	tokens, err := admin.ReadTokens(path)
	if err != nil {
		p.add("--admin-token-file", "%w", err)
	}
	return tokens
}

// completeURL leaves it to the package what else is wrong with the URL, such as a user.
func (p *problems) completeURL(flag, text string) {
	if isLeftOut(text) {
		p.add(flag, "a secret is left out, as in the output of ssed config: put it in")
	}
}

// notEmpty is for a text whose empty value would be the default of the package.
func (p *problems) notEmpty(flag, text string) string {
	if text == "" {
		p.add(flag, "it is empty")
	}
	return text
}

// autoInbox is the default of --inbox: the inbox of the prefix, and without a history none.
const autoInbox = "auto"

// inbox reads the key, "" for none.
func (p *problems) inbox(text, history, prefix string) string {
	if text == autoInbox {
		text = redisconn.DefaultInbox(prefix)
	}
	switch {
	case text == "off":
		return ""
	case !strings.EqualFold(history, "off") || text == "":
		return text
	case text != redisconn.DefaultInbox(prefix):
		p.add("--inbox", "it takes --history=on: entries are kept until the history has them")
	}
	return ""
}
