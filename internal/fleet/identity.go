package fleet

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Setting is something that all instances should have alike.
type Setting struct {
	Name  string // in words, such as "inbox"
	Value string // "" if the instance does without
	// Harmful: with two values messages are lost or doubled. To do without harms nobody.
	Harmful bool
}

// Mismatch is a setting that another instance has otherwise.
type Mismatch struct {
	Setting
	Instance string // the other one
	Theirs   string
}

// String tells the difference as an operator reads it.
func (m Mismatch) String() string {
	return fmt.Sprintf("%s is %s here and %s on %s", m.Name, orOff(m.Value), orOff(m.Theirs), m.Instance)
}

func orOff(value string) string { return cmp.Or(value, "off") }

// isHarmful reports whether the two must not run beside each other.
func (m Mismatch) isHarmful() bool { return m.Harmful && m.Value != "" && m.Theirs != "" }

var (
	// ErrInstanceTaken is returned by Run when another process has the name of the instance.
	ErrInstanceTaken = errors.New("fleet: another process has the name of this instance")
	// ErrSettings is returned by Run when instances that are there already have a setting
	// otherwise, and both could not work.
	ErrSettings = errors.New("fleet: instances with other settings are there")
	// ErrNested is returned by Run when keys of another prefix would be channels of this
	// one, or the other way round.
	ErrNested = errors.New("fleet: one prefix begins with another")
)

// identity is what an owner key tells of a process.
type identity struct {
	Host     string            `json:"host"`
	Pid      int               `json:"pid"`
	Settings map[string]string `json:"settings"`
}

// identify returns what goes into the owner key.
func identify(settings []Setting) string {
	host, _ := os.Hostname() // "" if it is not known
	id := identity{Host: host, Pid: os.Getpid(), Settings: map[string]string{}}
	for _, s := range settings {
		id.Settings[s.Name] = s.Value
	}
	text, err := json.Marshal(id)
	if err != nil {
		panic(err) // text and a number always have a JSON form
	}
	return string(text)
}

// parseOwner reads "<process> <since> <identity>". What cannot be read says nothing.
func parseOwner(text string) (id identity) {
	parts := strings.SplitN(text, " ", 3)
	if len(parts) == 3 {
		_ = json.Unmarshal([]byte(parts[2]), &id)
	}
	if _, ok := id.Settings[Partitions]; !ok && id.Settings != nil {
		id.Settings[Partitions] = "1" // a version before there were several
	}
	return id
}

// harmful returns the settings with which another value does harm, in JSON.
func harmful(settings []Setting) string {
	list := map[string]string{}
	for _, s := range settings {
		if s.Harmful && s.Value != "" {
			list[s.Name] = s.Value
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		panic(err) // text always has a JSON form
	}
	return string(text)
}

// Partitions is the name of the setting that is the number of partitions.
const Partitions = "partitions"

// SettingsOf reads the settings of an instance out of its owner key: values by name.
func SettingsOf(owner string) map[string]string { return parseOwner(owner).Settings }

func (id identity) String() string {
	if id.Pid == 0 {
		return "a process of an earlier version"
	}
	return fmt.Sprintf("process %d on %s", id.Pid, cmp.Or(id.Host, "an unknown host"))
}

// compare lists what others have otherwise: words are name and owner key of each.
// Settings that another version does not know are passed over.
func compare(settings []Setting, words []string) (list []Mismatch) {
	for pair := range slices.Chunk(words, 2) {
		if len(pair) < 2 {
			break
		}
		theirs := parseOwner(pair[1]).Settings
		for _, s := range settings {
			if value, ok := theirs[s.Name]; ok && value != s.Value {
				list = append(list, Mismatch{s, pair[0], value})
			}
		}
	}
	return list
}

// judge takes in what a beat found. An error is for an instance that has just begun: it
// has to go, for the others were there before.
func (f *Fleet) judge(answer []string) error {
	f.isTheirs = len(answer) > 0 && answer[0] == "taken"
	switch {
	case len(answer) == 3 && answer[0] == "harm":
		return f.refuse(compare(f.cfg.Settings, answer[1:]))
	case len(answer) == 3 && answer[0] == "taken":
		f.isHarmed = f.refuse(compare(f.cfg.Settings, []string{f.cfg.Instance, answer[2]})) != nil
		return f.isTaken(answer[1], parseOwner(answer[2]))
	case len(answer) == 2 && answer[0] == "nested":
		return fmt.Errorf("%w: %s and %s. A channel could be a key of the other", ErrNested, f.cfg.Prefix, answer[1])
	case len(answer) < 4 || answer[0] != "ok":
		return errAnswer
	}
	f.counters.others.Store(int64(len(answer)-4) / 2)
	list := compare(f.cfg.Settings, answer[4:])
	f.tellMismatches(list, answer[3] != "")
	f.listed, f.told = true, answer[1]
	return nil
}

// refuse returns ErrSettings with the setting that harms, or nil if none does.
func (f *Fleet) refuse(list []Mismatch) error {
	if i := slices.IndexFunc(list, Mismatch.isHarmful); i >= 0 {
		return fmt.Errorf("%w: %v", ErrSettings, list[i])
	}
	return nil
}

var errAnswer = errors.New("fleet: malformed answer of a script")

// isTaken is called while another process has the name. One that crashed a moment ago is
// listed until its key expires; one that says anew that it is there is alive.
func (f *Fleet) isTaken(at string, other identity) error {
	alive := f.otherAt != "" && f.otherAt != at
	f.otherAt = at
	err := fmt.Errorf("%w: %q belongs to %v", ErrInstanceTaken, f.cfg.Instance, other)
	if alive && !f.listed {
		return err
	}
	return fmt.Errorf("%w: %w", errWait, err)
}

// errWait is no reason to end.
var errWait = errors.New("fleet: waiting")

// tellMismatches notes and logs what is not alike.
func (f *Fleet) tellMismatches(list []Mismatch, shared bool) {
	counts := map[string]int{}
	for _, s := range f.cfg.Settings {
		counts[s.Name] = 0
	}
	for _, m := range list {
		counts[m.Name]++
	}
	f.counters.mismatches.Store(&counts)
	if shared {
		if dropped, ok := f.sharedLine.Allow(); ok {
			f.cfg.Logger.Error("instances: another process has the name of this one: give each its own", "name", f.cfg.Instance, "dropped", dropped)
		}
	}
	for _, m := range list {
		if dropped, ok := f.mismatchLine.Allow(); ok {
			f.cfg.Logger.Warn("instances: another one has a different setting", "setting", m.Name, "here", orOff(m.Value),
				"there", orOff(m.Theirs), "other", m.Instance, "dropped", dropped)
		}
	}
}
