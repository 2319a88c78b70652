// Decodes OTLP export requests with the OpenTelemetry Collector's own library and prints what it
// saw: one JSON object a span or data point. 64-bit integers are decimal strings, so that no JSON
// reader rounds them.
//
// Usage: interop traces|metrics FILE...
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
)

type object = map[string]any

func main() {
	if len(os.Args) < 3 {
		fail(fmt.Errorf("usage: interop traces|metrics FILE..."))
	}
	printers := map[string]func([]byte, func(object)) error{"traces": traces, "metrics": metrics}
	print, known := printers[os.Args[1]]
	if !known {
		fail(fmt.Errorf("%s is neither traces nor metrics", os.Args[1]))
	}
	out := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for _, name := range os.Args[2:] {
		body, err := os.ReadFile(name)
		if err == nil {
			err = print(body, func(one object) {
				if err := encoder.Encode(one); err != nil {
					fail(err)
				}
			})
		}
		if err != nil {
			fail(err)
		}
	}
	if err := out.Flush(); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func traces(body []byte, emit func(object)) error {
	request := ptraceotlp.NewExportRequest()
	if err := request.UnmarshalProto(body); err != nil {
		return err
	}
	for _, resource := range request.Traces().ResourceSpans().All() {
		for _, scope := range resource.ScopeSpans().All() {
			for _, span := range scope.Spans().All() {
				one := origin(resource.Resource(), resource.SchemaUrl(), scope.Scope(), scope.SchemaUrl())
				one["span"] = spanOf(span)
				emit(one)
			}
		}
	}
	return nil
}

func origin(
	resource pcommon.Resource, schema string, scope pcommon.InstrumentationScope, scopeSchema string,
) object {
	return object{
		"resource":         attributes(resource.Attributes()),
		"schema_url":       schema,
		"scope":            scope.Name(),
		"scope_version":    scope.Version(),
		"scope_schema_url": scopeSchema,
	}
}

func spanOf(span ptrace.Span) object {
	links := []object{}
	for _, link := range span.Links().All() {
		links = append(links, object{
			"trace_id":    link.TraceID().String(),
			"span_id":     link.SpanID().String(),
			"trace_state": link.TraceState().AsRaw(),
			"flags":       link.Flags(),
			"attributes":  attributes(link.Attributes()),
			"dropped":     link.DroppedAttributesCount(),
		})
	}
	return object{
		"trace_id":       span.TraceID().String(),
		"span_id":        span.SpanID().String(),
		"parent_span_id": span.ParentSpanID().String(),
		"trace_state":    span.TraceState().AsRaw(),
		"flags":          span.Flags(),
		"name":           span.Name(),
		"kind":           span.Kind().String(),
		"start":          number(uint64(span.StartTimestamp())),
		"end":            number(uint64(span.EndTimestamp())),
		"status":         span.Status().Code().String(),
		"message":        span.Status().Message(),
		"attributes":     attributes(span.Attributes()),
		"events":         span.Events().Len(),
		"links":          links,
		"dropped": span.DroppedAttributesCount() + span.DroppedEventsCount() +
			span.DroppedLinksCount(),
	}
}

// attributes returns pairs of type and value in the order sent: a duplicate key would be seen.
func attributes(found pcommon.Map) [][3]any {
	pairs := [][3]any{}
	for key, value := range found.All() {
		kind, plain := typed(value)
		pairs = append(pairs, [3]any{key, kind, plain})
	}
	return pairs
}

func typed(value pcommon.Value) (string, any) {
	switch value.Type() {
	case pcommon.ValueTypeInt:
		return "int", strconv.FormatInt(value.Int(), 10)
	case pcommon.ValueTypeDouble:
		return "double", value.Double()
	case pcommon.ValueTypeBool:
		return "bool", value.Bool()
	case pcommon.ValueTypeStr:
		return "string", value.Str()
	case pcommon.ValueTypeSlice:
		elements := [][2]any{}
		for _, one := range value.Slice().All() {
			kind, plain := typed(one)
			elements = append(elements, [2]any{kind, plain})
		}
		return "list", elements
	case pcommon.ValueTypeMap:
		return "map", attributes(value.Map())
	default:
		return value.Type().String(), nil
	}
}

func metrics(body []byte, emit func(object)) error {
	request := pmetricotlp.NewExportRequest()
	if err := request.UnmarshalProto(body); err != nil {
		return err
	}
	for _, resource := range request.Metrics().ResourceMetrics().All() {
		for _, scope := range resource.ScopeMetrics().All() {
			for _, metric := range scope.Metrics().All() {
				for _, point := range points(metric) {
					one := origin(
						resource.Resource(), resource.SchemaUrl(), scope.Scope(), scope.SchemaUrl(),
					)
					one["metric"], one["unit"], one["type"] = metric.Name(), metric.Unit(), metric.Type().String()
					one["point"] = point
					emit(one)
				}
			}
		}
	}
	return nil
}

func points(metric pmetric.Metric) []object {
	found := []object{}
	switch metric.Type() {
	case pmetric.MetricTypeSum:
		for _, one := range metric.Sum().DataPoints().All() {
			found = append(found, object{
				"attributes":  attributes(one.Attributes()),
				"start":       number(uint64(one.StartTimestamp())),
				"time":        number(uint64(one.Timestamp())),
				"value":       strconv.FormatInt(one.IntValue(), 10),
				"monotonic":   metric.Sum().IsMonotonic(),
				"temporality": metric.Sum().AggregationTemporality().String(),
			})
		}
	case pmetric.MetricTypeGauge:
		for _, one := range metric.Gauge().DataPoints().All() {
			found = append(found, object{
				"attributes": attributes(one.Attributes()),
				"start":      number(uint64(one.StartTimestamp())),
				"time":       number(uint64(one.Timestamp())),
				"value":      strconv.FormatInt(one.IntValue(), 10),
			})
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, one := range metric.ExponentialHistogram().DataPoints().All() {
			found = append(found, object{
				"attributes":  attributes(one.Attributes()),
				"start":       number(uint64(one.StartTimestamp())),
				"time":        number(uint64(one.Timestamp())),
				"count":       number(one.Count()),
				"sum":         one.Sum(),
				"min":         one.Min(),
				"max":         one.Max(),
				"scale":       one.Scale(),
				"zero_count":  number(one.ZeroCount()),
				"offset":      one.Positive().Offset(),
				"buckets":     one.Positive().BucketCounts().AsRaw(),
				"temporality": metric.ExponentialHistogram().AggregationTemporality().String(),
			})
		}
	default:
		found = append(found, object{"unexpected": metric.Type().String()})
	}
	return found
}

func number(value uint64) string { return strconv.FormatUint(value, 10) }
