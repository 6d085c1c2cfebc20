package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"ssed"
)

// policyFlag is the flag that the file has as a list of mappings.
const policyFlag = "policy"

// fileKey is the key of a flag in the file.
func fileKey(flag string) string {
	if flag == policyFlag {
		return "policies"
	}
	return flag
}

// policyNames are what a policy may say.
var policyNames = []string{"history", "history-max", "history-ttl", "history-window", "slow"}

// policies reads values of --policy.
func (p *problems) policies(list []string) (all []ssed.Policy) {
	for _, text := range list {
		// No value has a =, and a glob may.
		at := strings.LastIndexByte(text, '=')
		if at < 0 {
			p.add("--policy", "%.100q is not a glob with what holds for it, such as chat:*=history-max:10000,history-ttl:10m", text)
			continue
		}
		all = append(all, p.policy(text[:at], text[at+1:]))
	}
	return all
}

func (p *problems) policy(match, settings string) ssed.Policy {
	policy := ssed.Policy{Match: match}
	seen := map[string]bool{}
	for _, setting := range strings.Split(settings, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(setting), ":")
		var own problems
		flag := fmt.Sprintf("--policy: %.70q: %s", match, name)
		switch {
		case !slices.Contains(policyNames, name):
			p.add("--policy", "%.70q: %.70q is not one of %s, with a value behind a colon", match, setting, strings.Join(policyNames, ", "))
		case seen[name]:
			own.add(flag, "it is there twice")
		case name == "history":
			policy.NoHistory = own.choice(flag, value, "on", "off") == "off"
		case name == "history-max":
			policy.MaxLen = own.count(flag, value)
		case name == "history-ttl":
			policy.TTL = own.positive(flag, value)
		case name == "slow":
			policy.Slow = own.slow(flag, value)
		case value == "auto":
		default:
			policy.Window = own.durationOrOff(flag, value)
		}
		seen[name] = true
		*p = append(*p, own...)
	}
	return policy
}

func (p *problems) slow(flag, text string) ssed.Slow {
	all := []ssed.Slow{ssed.SlowAll, ssed.SlowLatest, ssed.SlowClose}
	names := make([]string, len(all))
	for i, slow := range all {
		names[i] = slow.String()
	}
	return all[max(slices.Index(names, p.choice(flag, text, names...)), 0)]
}

var (
	errPolicies = errors.New("a list is expected, of mappings such as {match: 'chat:*', history-max: 10000}")
	errMatch    = errors.New("a policy needs match, the glob of its channels")
)

// policies reads the value of the key policies as values of --policy.
func (e fileEntry) policies(bool) ([]string, error) {
	list := resolve(e.value)
	if list.ShortTag() == "!!null" {
		return nil, nil
	}
	if list.Kind != yaml.SequenceNode {
		return nil, errPolicies
	}
	texts := []string{}
	for _, item := range list.Content {
		text, err := policyText(resolve(item))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", item.Line, err)
		}
		texts = append(texts, text)
	}
	return texts, nil
}

func policyText(item *yaml.Node) (string, error) {
	if item.Kind != yaml.MappingNode {
		return "", errPolicies
	}
	match := ""
	var settings []string
	for i := 0; i+1 < len(item.Content); i += 2 {
		key, value := item.Content[i], resolve(item.Content[i+1])
		switch {
		case value.Kind != yaml.ScalarNode || value.ShortTag() == "!!null":
			return "", fmt.Errorf("%.70s: %w", key.Value, errOneValue)
		case key.Value == "match":
			match = value.Value
		case !slices.Contains(policyNames, key.Value):
			return "", fmt.Errorf("%.70q is not match or one of %s", key.Value, strings.Join(policyNames, ", "))
		case strings.ContainsAny(value.Value, "=,"):
			return "", fmt.Errorf("%s: %w", key.Value, errOneValue)
		default:
			settings = append(settings, key.Value+":"+value.Value)
		}
	}
	if match == "" {
		return "", errMatch
	}
	return match + "=" + strings.Join(settings, ","), nil
}

// policyNodes are values of --policy as the file has them. What cannot be taken apart was
// named before.
func policyNodes(texts []string) *yaml.Node {
	list := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, text := range texts {
		at := strings.LastIndexByte(text, '=')
		if at < 0 {
			continue
		}
		item := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
		add := func(key, value string) { item.Content = append(item.Content, scalar(key), scalar(value)) }
		add("match", text[:at])
		for _, setting := range strings.Split(text[at+1:], ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(setting), ":")
			add(name, value)
		}
		list.Content = append(list.Content, item)
	}
	return list
}
