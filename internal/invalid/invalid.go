// Package invalid tells what is wrong with a Config, field by field. Whoever filled the
// Config can then say it in the words of its own user: the field of another Config, or a
// flag.
package invalid

import (
	"errors"
	"fmt"
	"strings"
)

// Field is one field with a bad value.
type Field struct {
	Package string // whose Config it is
	Name    string
	Err     error // without the name
}

// Error implements error: the package, the field, and what is wrong with it.
func (f *Field) Error() string { return f.Package + ": " + f.Name + ": " + f.Err.Error() }

// Unwrap returns the problem alone.
func (f *Field) Unwrap() error { return f.Err }

// Fields collects all problems of a Config. As an error it has a line for each.
type Fields []*Field

// Error implements error, a line for each field.
func (list Fields) Error() string {
	lines := make([]string, len(list))
	for i, f := range list {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the problems one by one.
func (list Fields) Unwrap() []error {
	errs := make([]error, len(list))
	for i, f := range list {
		errs[i] = f
	}
	return errs
}

// Of returns the fields that err complains of, also from within other errors.
func Of(err error) Fields {
	list, _ := errors.AsType[Fields](err)
	return list
}

// Check collects problems of a Config of one package.
type Check struct {
	Package string
	found   Fields
}

// Add tells that a field has a bad value. The text does not repeat the field's name.
func (c *Check) Add(field, format string, args ...any) {
	c.found = append(c.found, &Field{Package: c.Package, Name: field, Err: fmt.Errorf(format, args...)})
}

// If adds the problem only when there is one.
func (c *Check) If(is bool, field, format string, args ...any) {
	if is {
		c.Add(field, format, args...)
	}
}

// Take adds the fields that err complains of by the names that rename gives them, and
// leaves out those that it gives none.
func (c *Check) Take(err error, rename func(field string) string) {
	for _, f := range Of(err) {
		if name := rename(f.Name); name != "" {
			c.found = append(c.found, &Field{Package: c.Package, Name: name, Err: f.Err})
		}
	}
}

// Err returns Fields, or nil when nothing is wrong.
func (c *Check) Err() error {
	if len(c.found) == 0 {
		return nil
	}
	return c.found
}
