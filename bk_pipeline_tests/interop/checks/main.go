// Checks what the project ships with the programs that will read it: `dockerfile FILE` by BuildKit's
// parser and linter, `compose FILE` by Docker Compose's loader, and `series` by the translation of
// OpenTelemetry's metrics to Prometheus: lines of name, unit and type in, names of series out. `promql`
// prints what Prometheus finds wrong with the queries that it reads, one in a line.
package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	docker "github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/prometheus/otlptranslator"
	"github.com/prometheus/prometheus/promql/parser"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func dockerfile(path string) {
	text, err := os.ReadFile(path)
	check(err)
	parsed, err := docker.Parse(bytes.NewReader(text))
	check(err)
	parsed.PrintWarnings(os.Stdout)
	lint := linter.New(&linter.Config{
		Warn: func(rule, _, _, message string, _ []docker.Range) { fmt.Println(rule, message) },
	})
	_, _, err = instructions.Parse(parsed.AST, lint)
	check(err)
}

func compose(path string) {
	options, err := cli.NewProjectOptions([]string{path}, cli.WithEnv(os.Environ()))
	check(err)
	project, err := options.LoadProject(context.Background())
	check(err)
	json, err := project.MarshalJSON()
	check(err)
	fmt.Println(string(json))
}

func series() {
	types := map[string]otlptranslator.MetricType{
		"sum":       otlptranslator.MetricTypeMonotonicCounter,
		"gauge":     otlptranslator.MetricTypeGauge,
		"histogram": otlptranslator.MetricTypeExponentialHistogram,
	}
	namer := otlptranslator.MetricNamer{WithMetricSuffixes: true}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		parts := strings.Split(in.Text(), "\t")
		name, err := namer.Build(otlptranslator.Metric{Name: parts[0], Unit: parts[1], Type: types[parts[2]]})
		check(err)
		fmt.Println(name)
	}
}

func promql() {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if _, err := parser.ParseExpr(in.Text()); err != nil {
			fmt.Println(in.Text(), err)
		}
	}
}

func main() {
	switch os.Args[1] {
	case "dockerfile":
		dockerfile(os.Args[2])
	case "compose":
		compose(os.Args[2])
	case "series":
		series()
	case "promql":
		promql()
	}
}
