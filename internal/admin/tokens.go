package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"ssed/internal/throttle"
)

// Role is what a token is for.
type Role string

// The roles, as they stand in a file of tokens.
const (
	RolePublish Role = "publish" // to publish, and nothing else
	RoleRead    Role = "read"    // all that changes nothing, but for /debug/pprof
	RoleAll     Role = "all"
)

// allows reports whether a token of this role may do what takes the role need.
func (r Role) allows(need Role) bool { return r == RoleAll || r == need }

// Token is one that the listener takes.
type Token struct {
	Role Role
	Name string // of who has it, for the log: the role where the file gives none
	Text string
}

const (
	// minTokenBytes is what guessing over a network does not get through: 96 bits when
	// the characters are those of base64 and random.
	minTokenBytes = 16
	// maxTokens bounds what each request is compared with.
	maxTokens = 100
	// maxTokenFile bounds a path that is something else.
	maxTokenFile = 64 << 10
	maxTokenName = 64
)

var (
	errToken     = fmt.Errorf("the token has not at least %d printable ASCII characters without spaces", minTokenBytes)
	errTokenLine = errors.New("not a token, or a role (publish, read or all), a token and, if wanted, a name")
	errTokenName = fmt.Errorf("the name has not at most %d printable ASCII characters", maxTokenName)
	errTokenBig  = fmt.Errorf("larger than %d bytes", maxTokenFile)
	errTokenMany = fmt.Errorf("more than %d tokens", maxTokens)
	errNoToken   = errors.New("no token in it")
)

// CheckToken returns an error, without the text, for one that can be guessed or cannot be
// sent.
func CheckToken(text string) error {
	if len(text) < minTokenBytes || !isPrintable(text) {
		return errToken
	}
	return nil
}

// isPrintable reports whether all of it is printable ASCII without spaces.
func isPrintable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// ReadTokens reads a file of tokens, one on a line: a token alone, which may do
// everything, or a role, the token and a name:
//
//	publish 4mJ0eEkSp1JdC9aZ backend
//
// Empty lines and those that begin with # are left out. Errors name lines, never what
// stands there.
func ReadTokens(path string) ([]Token, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxTokenFile:
		return nil, fmt.Errorf("%s: %w", path, errTokenBig)
	}
	tokens, err := parseTokens(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return tokens, nil
}

func parseTokens(text string) (tokens []Token, err error) {
	number := 0
	for line := range strings.Lines(text) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		t, err := parseToken(strings.Fields(line))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		tokens = append(tokens, t)
	}
	switch {
	case len(tokens) == 0:
		return nil, errNoToken
	case len(tokens) > maxTokens:
		return nil, errTokenMany
	}
	return tokens, nil
}

func parseToken(fields []string) (t Token, err error) {
	t.Role = RoleAll
	switch role := Role(fields[0]); {
	case len(fields) == 1:
		t.Text = fields[0]
	case len(fields) > 3 || role != RolePublish && role != RoleRead && role != RoleAll:
		return t, errTokenLine
	default:
		t.Role, t.Text = role, fields[1]
	}
	t.Name = string(t.Role)
	if len(fields) == 3 {
		t.Name = fields[2]
	}
	if len(t.Name) > maxTokenName || !isPrintable(t.Name) {
		return t, errTokenName
	}
	return t, CheckToken(t.Text)
}

// TokenFor returns the first token that may do what takes the role, "" when there is none.
func TokenFor(tokens []Token, need Role) string {
	for _, t := range tokens {
		if t.Role.allows(need) {
			return t.Text
		}
	}
	return ""
}

// keyring is what the listener compares requests with. It follows the file, if there is
// one: a token that is taken out of it is refused from the next request on.
type keyring struct {
	path string // "": the keys stay as they are
	log  *slog.Logger

	mu      sync.Mutex // guards the rest
	keys    []key
	file    os.FileInfo // of the file as it was read
	read    time.Time   // when that was
	trouble throttle.Outage
}

// key is a token as its hash: of equal length, so that the time to compare does not tell
// the token's.
type key struct {
	role Role
	name string
	sum  [sha256.Size]byte
}

func newKeyring(tokens []Token, path string, log *slog.Logger) *keyring {
	return &keyring{path: path, log: log, keys: keysOf(tokens)}
}

func keysOf(tokens []Token) []key {
	keys := make([]key, len(tokens))
	for i, t := range tokens {
		keys[i] = key{t.Role, t.Name, sha256.Sum256([]byte(t.Text))}
	}
	return keys
}

// find returns the key of a token; ok is false for one that is not known.
func (k *keyring) find(token string) (found key, ok bool) {
	return k.findSum(sha256.Sum256([]byte(token)))
}

// holds reports whether a key that was found is still there, for what takes the role.
func (k *keyring) holds(known key, need Role) bool {
	now, ok := k.findSum(known.sum)
	return ok && now.role.allows(need)
}

func (k *keyring) findSum(sum [sha256.Size]byte) (found key, ok bool) {
	for _, key := range k.current() {
		if subtle.ConstantTimeCompare(sum[:], key.sum[:]) == 1 {
			found, ok = key, true
		}
	}
	return found, ok
}

// settled is the age from which on the time of a file tells another content for sure:
// file systems give two writes within one tick of the kernel the same time.
const settled = time.Second

// current returns the keys after a look at the file: one system call. A file that cannot
// be read, or is wrong, changes nothing, and the log says so.
func (k *keyring) current() []key {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.path == "" {
		return k.keys
	}
	info, err := os.Stat(k.path)
	if err == nil && k.isSame(info) {
		return k.keys
	}
	var tokens []Token
	now := time.Now()
	if err == nil {
		tokens, err = ReadTokens(k.path)
	}
	if err != nil {
		if failures, tell := k.trouble.Failed(); tell {
			k.log.Error("admin: --admin-token-file cannot be read: the tokens from before stay valid", "error", err, "failures", failures)
		}
		return k.keys
	}
	keys := keysOf(tokens)
	changed := !slices.Equal(keys, k.keys)
	k.keys, k.file, k.read = keys, info, now
	if k.trouble.Worked() || changed {
		k.log.Info("admin: --admin-token-file was read again", "tokens", len(keys))
	}
	return k.keys
}

func (k *keyring) isSame(info os.FileInfo) bool {
	return k.file != nil && os.SameFile(info, k.file) && info.Size() == k.file.Size() &&
		info.ModTime().Equal(k.file.ModTime()) && k.read.Sub(info.ModTime()) > settled
}
