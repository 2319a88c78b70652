"""The lines by which tools say that they failed: a table of rules.

To add a tool, add a row. Patterns are searched in the text of a log, line by line (`^` and `$`
are those of a line, `.` never crosses one). Each must take linear time on any line: begin at `^`
or a literal, and repeat only what cannot match in two ways.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property


class FailureKind(StrEnum):
    """What kind of failure: whose turn it is to do something about it."""

    TEST = "test"
    BUILD = "build"
    INFRASTRUCTURE = "infrastructure"
    TIMEOUT = "timeout"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Rule:
    """How a tool reports a failure.

    Attributes:
        tool: The tool.
        kind: The kind of failure.
        rank: Which of several rules that match decides: the highest.
        hints: Lower-case strings, one of which is in each text that matches.
        pattern: The line. Its group `message`, if it has one, is the message, else the whole line.
        detail: A later line that is added to the message, within the next `DETAIL_LINES`.
        last: Whether the last match is the message. Else it is the first, which others follow from,
            or of tests the first by name.
    """

    tool: str
    kind: FailureKind
    rank: int
    hints: tuple[str, ...]
    pattern: str
    detail: str = ""
    last: bool = False

    @cached_property
    def expression(self) -> re.Pattern[str]:
        """The compiled pattern."""
        return re.compile(self.pattern, re.MULTILINE)

    @cached_property
    def detail_expression(self) -> re.Pattern[str]:
        """The compiled pattern of the detail."""
        return re.compile(self.detail)


DETAIL_LINES = 12
# From this rank downwards a rule says little: the exit status and the phase may say more.
GENERIC = 20
# Which of two of the same rank wins: the first of this table.
_TEST, _BUILD, _INFRA = FailureKind.TEST, FailureKind.BUILD, FailureKind.INFRASTRUCTURE
_TIMEOUT, _UNKNOWN = FailureKind.TIMEOUT, FailureKind.UNKNOWN
_MACHINE, _TIME, _TESTS, _COMPILER, _NETWORK, _TOOL, _PROGRAM = 90, 85, 70, 65, 60, 50, 40
_SUMMARY = 45

_EXCEPTION = r"^(?:E {2,}|\s{0,12})(?P<detail>(?:[A-Za-z_][\w.]{0,100}(?:Error|Exception|Failure|Failed|Exit|Timeout)\b.*))"
_GO_DETAIL = r"^\s{1,16}(?P<detail>\S{1,200}\.go:\d{1,7}: .+)"
_JS_DETAIL = r"^\s{1,12}(?P<detail>(?:[A-Z]\w{0,60}Error\b.*|expect\(.*|Expected\b.*|thrown: .*|Error: .*|Exceeded timeout .*))"


def _r(  # noqa: PLR0917  # a row of the table
    tool: str,
    kind: FailureKind,
    rank: int,
    hints: str,
    pattern: str,
    detail: str = "",
    *,
    last: bool = False,
) -> Rule:
    return Rule(tool, kind, rank, tuple(hints.split("|")), pattern, detail, last=last)


RULES = [
    # The machine.
    _r("disk full", _INFRA, _MACHINE, "no space left on device|disk quota exceeded|enospc|not enough space on the disk",
       r"^.{0,400}?(?i:no space left on device|disk quota exceeded|\bENOSPC\b|not enough space on the disk).*"),
    _r("out of memory", _INFRA, _MACHINE, "out of memory|oom|killed process|signal: killed|heap out of memory|outofmemoryerror|cannot allocate memory|killed signal",
       r"^.{0,400}?(?:Out of memory: Kill|\bOOMKilled\b|\boom-kill|[Mm]emory cgroup out of memory|\bKilled process \d|signal: killed"
       r"|JavaScript heap out of memory|java\.lang\.OutOfMemoryError|Cannot allocate memory|Killed signal terminated program|fatal error: out of memory"
       r"|\bran out of memory\b|OOM killer).*"),
    _r("killed", _INFRA, _PROGRAM, "killed", r"^(?:.{0,300}: line \d{1,6}: +\d{1,10} )?Killed\b.*", last=True),
    _r("agent lost", _INFRA, _MACHINE, "agent|instance|spot",
       r"^.{0,200}?(?:\b[Aa]gent (?:was |has been )?(?:lost|forcefully stopped|stopped unexpectedly|disconnected)"
       r"|[Ss]pot (?:[Ii]nstance )?(?:[Ii]nterruption|termination)|\binstance (?:is |was |has been )?(?:reclaimed|preempted|interrupted)).*"),
    # Time.
    _r("go test", _TIMEOUT, _TIME, "panic: test timed out", r"^panic: (?P<message>test timed out after .*)", r"^\s{1,4}(?P<detail>Test\S.*)"),
    _r("bazel", _TIMEOUT, _TIME, "timeout", r"^(?:TIMEOUT: //\S{1,300}|//\S{1,300} {1,80}TIMEOUT in .*)"),
    _r("pytest-timeout", _TIMEOUT, _TIME, "timeout", r"^(?:E {3}.{0,100}|FAILED .{0,400} - )Failed: Timeout .*"),
    _r("ctest", _TIMEOUT, _TIME, "(timeout)", r"^\s{0,8}\d{1,6} - \S{1,300} \(Timeout\).*"),
    _r("job", _TIMEOUT, 59, "timed out|timeout|time limit|timelimit",
       r"^.{0,200}?(?i:\b(?:job|build|step|command|script|task|process|suite|run|tests?|execution|deployment|rollout)\b[^:\n]{0,60}\btimed[ -]?out\b"
       r"|\bexceeded (?:the |its )?(?:maximum |max |total )?(?:job |step |build |command )?(?:timeout|time ?limit|execution time|run ?time)\b"
       r"|^timeout: (?:sending signal|the monitored command)|\btimed out after \d|\btimeout (?:of \S{1,20} )?(?:has been )?exceeded\b"
       r"|\btimed out waiting for the condition).*"),
    # Tests.
    _r("go test", _BUILD, 72, "[build failed]|[setup failed]", r"^FAIL\s(?P<message>\S{1,300} \[(?:build|setup) failed\])"),
    _r("pytest", _TEST, 71, "failed ", r"^FAILED (?P<message>\S{1,400}::.+)"),
    _r("pytest", _BUILD, 69, "error while importing test", r"^(?P<message>ImportError while importing test module .+)", _EXCEPTION),
    _r("pytest", _BUILD, _TESTS, "error ", r"^ERROR (?P<message>(?!in )\S{1,400}\.py(?: - .+)?)$"),
    _r("pytest", _TEST, _TESTS, "error ", r"^ERROR (?P<message>(?!in )\S{1,400}\.py(?:::\S{1,300})?(?: - .+)?)$"),
    _r("unittest", _TEST, _TESTS, "fail: |error: ", r"^(?:FAIL|ERROR): (?P<message>\S{1,200} \([\w.:<>]{1,300}\).*)", _EXCEPTION),
    _r("go test", _TEST, _TESTS, "--- fail: ", r"^\s{0,32}--- FAIL: (?P<message>\S{1,400})", _GO_DETAIL),
    _r("jest", _BUILD, _TESTS, "● test suite failed", r"^\s{0,6}● (?P<message>Test suite failed to run)", r"^\s{1,12}(?P<detail>(?!at )\S.*)"),
    _r("jest", _TEST, _TESTS, "●", r"^\s{0,6}● (?P<message>(?!Console$|Test suite failed|Cannot log after|Deprecation|Validation).+)", _JS_DETAIL),
    _r("vitest", _TEST, _TESTS, "fail|\u00d7", r"^\s{0,6}(?:FAIL|\u00d7)\s{1,4}(?P<message>(?:\|?[\w-]{1,40}\|? )?\S{1,300}\.[cm]?[jt]sx?(?: \[.{0,100}\])?(?: > .+)?)", _JS_DETAIL),
    _r("rspec", _TEST, _TESTS, "rspec ", r"^rspec (?:'|\")?(?P<message>\./\S{1,300}(?:'|\")? # .+)"),
    _r("mocha, cypress", _TEST, _TESTS, " failing", r"^\s{0,8}\d{1,6} failing\b.*\n\s{1,8}1\) (?P<message>.+)", r"^\s{1,16}(?P<detail>(?:[\w ]{0,60}Error\b.*))"),
    _r("minitest", _TEST, _TESTS, "failure:|error:", r"^\s{0,6}1\) (?:Failure|Error):\n(?P<message>\S{1,300})", r"^(?P<detail>(?!\s{0,4}\S{1,300}:\d).+)"),
    _r("minitest", _TEST, _TESTS, "failure:|error:", r"^(?:Failure|Error):\n(?P<message>\S{1,200}#\S{1,200}.*)", r"^(?P<detail>\S.+)"),
    _r("playwright", _TEST, _TESTS, "\u203a", r"^\s{0,6}1\) \[?.{0,60}?\]? ?\u203a (?P<message>.+?)(?: [─━]{2,})?$", _JS_DETAIL),
    _r("cargo test", _TEST, _TESTS, "... failed", r"^test (?P<message>\S{1,400}(?: - [\w ]{1,40})?) \.\.\. FAILED", ""),
    _r("cargo nextest", _TEST, _TESTS, "fail [", r"^\s{0,16}(?:FAIL|SIGABRT|SIGSEGV|ABORT) \[ *[\d.]{1,20}s\] (?:\(.{0,40}\) )?(?P<message>\S.+)"),
    _r("googletest", _TEST, _TESTS, "[  failed  ]", r"^\[  FAILED  \] (?P<message>(?!\d)[^\s(,]{1,300})"),
    _r("ctest", _TEST, _TESTS, " - ", r"^\s{0,8}\d{1,6} - (?P<message>\S{1,300} \((?:Failed|SEGFAULT|Subprocess aborted|Bus Error|ILLEGAL|Not Run|Exit code .{0,20}|Child aborted)\))"),
    _r("gradle", _TEST, _TESTS, " failed", r"^(?P<message>(?!> )\S{1,300} > .{1,400}) FAILED$", r"^\s{1,8}(?P<detail>[\w.]{1,200}(?:Error|Exception|Failure)\b.*)"),
    _r("maven", _TEST, _TESTS, "[error]", r"^\[ERROR\] {2,6}(?P<message>\w{1,200}(?:Test|Tests|IT|Spec|TestCase)(?:\$\w{1,100})?[.:>]\S{1,300}.*)"),
    _r("maven", _TEST, 69, "tests run", r"^\[ERROR\] (?P<message>\S{1,400}) (?:--|Time elapsed:?).{0,100}<<< (?:FAILURE|ERROR)!", r"^(?P<detail>[\w.]{1,200}(?:Error|Exception|Failure)\b.*)"),
    _r("phpunit", _TEST, _TESTS, "failure|error", r"^There (?:was|were) \d{1,6} (?:failure|error)s?:\n1\) (?P<message>.+)", r"^(?P<detail>(?!1\) ).+)"),
    _r("dotnet test", _TEST, _TESTS, "failed ", r"^\s{1,4}Failed (?P<message>\S{1,300}) \[[^\]\n]{1,20}\]", r"^\s{1,6}(?P<detail>(?!Error Message|Stack Trace)\S.+)"),
    _r("xctest", _TEST, _TESTS, ": error: ", r"^.{0,400}?: error: (?P<message>(?:-\[[\w. ]{1,300}\]|test\w{1,200}) : .+)"),
    _r("bazel", _TEST, 68, "failed", r"^(?P<message>//\S{1,300}) {1,80}FAILED in .*"),
    _r("bazel", _TEST, 67, "failed: //", r"^FAILED: (?P<message>//\S{1,300}) \(Summary\)"),
    _r("bazel", _TEST, 68, "fail: //", r"^FAIL: (?P<message>//\S{1,300}) .*"),
    _r("lit", _TEST, _TESTS, "fail: ", r"^FAIL: (?P<message>[\w.-]{1,60} :: \S{1,300})"),
    _r("ExUnit", _TEST, _TESTS, " 1) ", r"^\s{1,6}1\) (?P<message>(?:test|doctest|property) .{1,300} \([\w.]{1,200}\))$", r"^\s{1,10}(?P<detail>(?!\S{1,200}:\d)\S.+)"),
    _r("clojure.test", _TEST, _TESTS, " in (", r"^(?:FAIL|ERROR) in (?P<message>\(.{1,300}\) \(\S{1,200}:\d{1,7}\))"),
    _r("Test::More", _TEST, _TESTS, "failed test", r"^#\s{1,4}Failed test (?P<message>'.{1,300}')"),
    _r("Dart, Flutter", _TEST, _TESTS, "[e]", r"^\d\d:\d\d \+\d{1,6}(?: ~\d{1,6})? -\d{1,6}: (?P<message>.{1,400}?) \[E\]"),
    _r("Karma", _TEST, _TESTS, " failed", r"^(?:Chrome|Firefox|HeadlessChrome|Safari|Edge)\b.{0,80}\) (?P<message>.{1,300}) FAILED$"),
    _r("Deno", _TEST, _TESTS, "... failed", r"^(?P<message>(?!test )\S.{0,300}?) \.\.\. FAILED \(\d"),
    _r("Bun", _TEST, _TESTS, "(fail) ", r"^\(fail\) (?P<message>.{1,400}?)(?: \[[\d.]{1,10}ms\])?$"),
    _r("node:test", _TEST, _TESTS, "✖", r"^\s{0,12}✖ (?P<message>(?!failing tests)\S.{0,300}?) \([\d.]{1,12}ms\)$"),
    _r("Julia", _TEST, _TESTS, " test", r"^.{0,200}?(?P<message>(?:Test Failed at|Error During Test at) .+)", r"^\s{1,6}(?P<detail>(?:Expression|Evaluated|Got exception): .*)"),
    _r("hspec", _TEST, _TESTS, " failed [", r"^\s{0,12}(?P<message>\S.{0,300}?) FAILED \[1\]$"),
    _r("automake", _TEST, 63, "fail: ", r"^\s{0,4}FAIL: (?P<message>(?!//)\S{1,300})$"),
    _r("TAP", _TEST, 68, "not ok ", r"^\s{0,8}not ok \d{1,6}(?: -)? (?P<message>(?!.*# (?:TODO|SKIP|todo|skip)).+)"),
    _r("buck2", _TEST, 68, "✗ fail", r"^.{0,10}✗ Fail: (?P<message>\S.{0,400}?)(?: \([\d.]{1,10}s\))?$"),
    _r("pytest", _TEST, 66, "e   ", r"^E {3,8}(?P<message>[A-Za-z_][\w.]{0,120}(?:Error|Exception|Failed|Exit|Interrupt|Warning)\b.*)", last=True),
    _r("pytest", _TEST, 64, " error", r"^=+ (?:short test summary|\d{1,6} (?:failed|errors?)\b).*"),
    _r("test summary", _TEST, 62, "fail", r"^\s{0,12}(?P<message>(?:Tests|Test Suites|Test Files|Tests? run)\b:?\s{0,4}(?:[^\n]{0,60}\D)?[1-9]\d{0,6} (?:failed|failures?)\b.*)"),
    _r("test summary", _TEST, 62, "fail", r"^(?P<message>test result: FAILED.*|FAILED \((?:failures|errors)=.*|\[ERROR\] There are test failures.*|There were failing tests.*|FAILURES!$|[1-9]\d{0,6} examples?, \d{1,6} failures?.*)"),
    _r("test summary", _TEST, 62, "tests run|tests:|failures:", r"^(?:\[ERROR\] )?(?P<message>Tests(?: run)?: ?\d{1,7}, .{0,80}?(?:Failures|Errors): ?[1-9].*)"),
    _r("go test", _TEST, 61, "fail\t|fail ", r"^FAIL\s(?P<message>[\w./-]{1,300})\s[\d.]{1,12}s$"),
    # Compilers and linters.
    _r("gcc, clang, javac", _BUILD, _COMPILER, "error:", r"^(?:\[\S{1,20}\] ?)?(?P<message>(?!E )[^\s:'\"][^:\n'\"]{0,300}(?::\d{1,7}){1,2}:? (?:fatal )?error:(?: .+)?)$", r"^\s{1,8}(?P<detail>(?![|^~ ])\S.+)"),
    _r("gcc, clang", _BUILD, _COMPILER, "error:", r"^(?P<message>(?:[\w+./-]{0,100}(?:gcc|g\+\+|clang|clang\+\+|cc1plus|ld|lld|ld\.lld|ld64\.lld|clang-\d\d?)): (?:fatal )?error: .+)"),
    _r("linker", _BUILD, 64, "undefined reference|undefined symbol|collect2|unresolved external|symbol(s) not found|duplicate symbol",
       r"^.{0,400}?(?:undefined reference to .+|undefined symbols?: .+|collect2: error: .+|error LNK\d{4}: .+|symbol\(s\) not found.*|duplicate symbol.*)"),
    _r("rustc", _BUILD, _COMPILER, "error[e", r"^(?P<message>error\[E\d{4}\]: .+)", r"^\s{1,8}--> (?P<detail>\S+)"),
    _r("rustc", _BUILD, 64, "error: ", r"^(?P<message>error: .+)\n\s{1,8}--> ", r"^\s{1,8}--> (?P<detail>\S+)"),
    _r("rustc", _BUILD, 63, "error: could not compile|error: aborting", r"^(?P<message>error: (?:could not compile|aborting due to).*)"),
    _r("msvc, dotnet", _BUILD, _COMPILER, "error ", r"^\s{0,8}(?P<message>[^\s(][^(\n]{0,300}\(\d{1,7}(?:,\d{1,6}){0,3}\)\s?: (?:fatal )?error [A-Z]{1,6}\d{1,6}: .+)"),
    _r("tsc", _BUILD, _COMPILER, "error ts", r"^(?P<message>(?:\S{1,300}(?:\(\d{1,7},\d{1,6}\):|:\d{1,7}:\d{1,6} -) )?error TS\d{1,6}: .+)"),
    _r("go build", _BUILD, 64, ".go:", r"^(?:vet: )?(?P<message>(?!\S{1,300}_test\.go:\d{1,7}: )\S{1,300}\.go:\d{1,7}:\d{1,5}: .+)"),
    _r("kotlin", _BUILD, _COMPILER, "e: ", r"^e: (?P<message>(?:file:)?\S{1,400}\.kts?:.+)"),
    _r("maven", _BUILD, _COMPILER, "[error]", r"^\[ERROR\] (?P<message>\S{1,400}\.(?:java|kt|scala|groovy):\[?\d.+)"),
    _r("scala", _BUILD, 64, "[error]", r"^\[error\] (?P<message>(?:-- .*|\S{1,400}\.scala:\d.+))"),
    _r("ocaml", _BUILD, 64, "characters ", r"^File \"(?P<message>[^\"\n]{1,300}\", lines? \d{1,7}.*?):?\n(?:(?!File ).*\n){0,6}?Error", r"^(?P<detail>Error.*)"),
    _r("swift", _BUILD, 63, "error:", r"^(?P<message>error: (?:emit-module command failed|fatalError|no such module).*)"),
    _r("eslint", _BUILD, 62, "error", r"^\s{1,8}\d{1,7}:\d{1,6}\s{1,8}error\s{1,8}(?P<message>\S.+)"),
    _r("webpack, vite", _BUILD, 63, "error in|module not found|rolluperror|build failed", r"^(?:\S{1,3} )?(?P<message>(?:ERROR in \S.*|Module not found: .*|.{0,60}RollupError: .*|\[vite\].{0,40}[Ee]rror.*))"),
    _r("ruff, flake8", _BUILD, 58, ".py:", r"^(?P<message>[^\s:]{1,300}\.py:\d{1,7}:\d{1,6}: [A-Z]{1,4}\d{2,5} .+)"),
    _r("formatter", _BUILD, 55, "would reformat|would be reformatted|code style issues|diff in ", r"^(?P<message>(?:[Ww]ould reformat:? .+|.{0,40}files? would be reformatted.*|\[warn\] Code style issues.*|Diff in \S.+))"),
    _r("RuboCop", _BUILD, 58, ".rb:", r"^(?P<message>[^\s:]{1,300}\.rb:\d{1,7}:\d{1,6}: [CWEF]: .+)"),
    _r("protoc, buf", _BUILD, 58, ".proto:", r"^(?P<message>[^\s:]{1,300}\.proto:\d{1,7}:\d{1,6}:.+)"),
    _r("Nix", _BUILD, 57, "error: ", r"^(?P<message>error: (?:builder for|Cannot build|build of) .+)"),
    _r("cmake", _BUILD, 58, "cmake error", r"^\s{0,12}CMake Error.*", r"^\s{1,4}(?P<detail>\S.*)"),
    _r("bazel", _BUILD, 57, "error: ", r"^(?:\(\d\d:\d\d:\d\d\) )?ERROR: (?P<message>(?:/|//|\S{1,300}BUILD|Analysis of|Build did NOT|no such).*)"),
    _r("buck2", _BUILD, 57, "action failed", r"^(?:\[.{0,40}\] )?(?P<message>Action failed: .+)"),
    _r("ninja", _BUILD, 52, "failed: ", r"^FAILED: (?:\[code=\d{1,5}\] )?(?P<message>(?!//|Build did)\S.+)"),
    _r("make", _BUILD, _PROGRAM, "***", r"^(?P<message>g?make(?:\[\d{1,3}\])?: \*\*\* .+)"),
    _r("gradle", _BUILD, 52, "went wrong", r"^\* What went wrong:\n(?P<message>.+)", r"^\s{0,4}> (?P<detail>.+)"),
    _r("maven", _BUILD, 48, "failed to execute goal", r"^\[ERROR\] (?P<message>Failed to execute goal .+)"),
    # Networks and services.
    _r("gradle", _INFRA, _NETWORK, "could not get|could not resolve all|could not head", r"^.{0,200}?(?P<message>Could not (?:GET|HEAD) '.+)"),
    _r("maven", _INFRA, _NETWORK, "could not transfer artifact", r"^.{0,600}?(?P<message>Could not transfer artifact .+)"),
    _r("gradle, maven", _BUILD, 59, "could not resolve|could not find", r"^.{0,100}?(?P<message>Could not (?:resolve (?:all \S{1,40}|dependencies)|find artifact|find method|find \S{1,100}:\S{1,100}:).*)", r"^\s{0,8}> (?P<detail>Could not .+)"),
    _r("curl", _INFRA, _NETWORK, "curl: (", r"^.{0,60}?(?P<message>curl: \((?:5|6|7|16|18|28|35|52|55|56|60|92)\) .+)", last=True),
    _r("curl", _INFRA, _TOOL, "curl: (22)", r"^.{0,60}?(?P<message>curl: \(22\) .+)", last=True),
    _r("network", _INFRA, _NETWORK, "resolve host|lookup address|servname|dns error|name resolution|failure resolving|name or service not known|getaddrinfo|no such host|eai_again",
       r"^(?!.{0,400}(?i:retrying|will retry|tries remaining|warning)).{0,600}?(?i:could not resolve (?:host|proxy)|unable to resolve host|temporary failure (?:in name resolution|resolving)|name or service not known"
       r"|getaddrinfo (?:ENOTFOUND|EAI_AGAIN|failed)|no such host|EAI_AGAIN|failed to lookup address|nodename nor servname|\bdns error\b).*"),
    _r("network", _INFRA, 56, "connection|timeout|timed out|econn|etimedout|max retries|handshake|unreachable|broken pipe|bad gateway|service unavailable|gateway time",
       r"^(?!.{0,400}(?i:retrying|will retry|tries remaining|warning)).{0,400}?(?:(?i:connection (?:reset by peer|refused|timed out|closed by remote|was reset|aborted)"
       r"|read timed out|i/o timeout|tls handshake (?:timeout|failure)|max retries exceeded|network is unreachable|no route to host|host is unreachable"
       r"|502 bad gateway|503 service (?:temporarily )?unavailable|504 gateway time-?out|remote end (?:hung up|closed connection)"
       r"|context deadline exceeded)|\bE(?:CONNRESET|CONNREFUSED|TIMEDOUT|HOSTUNREACH|PIPE)\b).*"),
    _r("git", _INFRA, _NETWORK, "fatal: |error: rpc|remote: |ssh: ", r"^(?P<message>(?:fatal: (?:unable to access|unable to connect|[Cc]ould not read from remote|the remote end hung up|early EOF|Authentication failed|could not read Username"
       r"|fetch-pack|protocol error|repository '.{1,400}' not found|index-pack failed|clone of .{1,300} failed).*|error: RPC failed.*|ssh: connect to host .*|.{0,60}Permission denied \(publickey.*|Host key verification failed\.?))"),
    _r("git", _INFRA, _TOOL, "fatal: ", r"^fatal: (?P<message>(?:couldn't find remote ref|reference is not a tree|bad object|not a git repository|unable to create .{1,300}\.lock|remote error|Unable to).*)"),
    _r("npm, yarn, pnpm", _INFRA, 61, "npm|yarn|pnpm|err_", r"^(?:npm (?:ERR!|error) (?:code |network |errno )?|error |.{0,10}ERR_PNPM_)(?P<message>.{0,120}(?:ECONNRESET|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ERR_SOCKET_TIMEOUT|E50\d|E429|network|META_FETCH_FAIL|FETCH_50\d).*)"),
    _r("npm, yarn, pnpm", _BUILD, _TOOL, "npm|yarn|err_pnpm", r"^(?:npm (?:ERR!|error) )(?P<message>code (?!ELIFECYCLE|1$)\w.+|notarget .+|404 .+)"),
    _r("npm, yarn, pnpm", _BUILD, _TOOL, "err_pnpm|lockfile|yn0", r"^.{0,40}?(?P<message>ERR_PNPM_\w.+|error Your lockfile needs to be updated.*|➤ YN\d{4}: .{0,6}(?:The lockfile would|error).*)"),
    _r("pip", _INFRA, 61, "error: ", r"^ERROR: (?P<message>(?:Could not install packages due to an (?:OSError|EnvironmentError)|HTTP error|.{0,60}HTTPSConnectionPool).*)"),
    _r("pip, uv", _BUILD, _TOOL, "no matching distribution|could not find a version|resolutionimpossible|no solution found|subprocess-exited|metadata-generation|failed building wheel",
       r"^.{0,30}?(?P<message>(?:No matching distribution found|Could not find a version that satisfies|ResolutionImpossible|No solution found when resolving|subprocess-exited-with-error|metadata-generation-failed|Failed building wheel).*)", last=True),
    _r("apt", _INFRA, _NETWORK, "e: ", r"^E: (?P<message>(?:Failed to fetch|Unable to fetch|Some index files failed|Could not get lock|Could not open lock|Unable to acquire|The repository .{1,200} (?:is not signed|does(?: not|n't) have)|Release file .{1,300} is not valid yet|Unable to connect).*)"),
    _r("apt, apk, yum", _BUILD, _TOOL, "e: |no match|unsatisfiable|no package", r"^(?:(?:E|ERROR|Error): )(?P<message>(?:Unable to locate package|Package .{1,200} has no|Version .{1,200} was not found|Unable to find a match|unable to select packages|unsatisfiable|Unmet dependencies).*)"),
    _r("docker", _BUILD, 61, "manifest", r"^.{0,300}?(?P<message>(?:manifest for .{1,300} not found.*|manifest unknown.*|.{1,300}: not found: manifest unknown.*))"),
    _r("docker", _INFRA, _NETWORK, "docker|toomanyrequests|rate limit|error during connect|error response from daemon|daemon",
       r"^.{0,300}?(?P<message>(?:toomanyrequests: .*|.{0,20}pull rate limit.*|Cannot connect to the Docker daemon.*|error during connect: .*|failed to connect to the docker API.*|docker: Error response from daemon: .*|Error response from daemon: .*|dockerd failed to start.*|failed to register layer.*))"),
    _r("docker build", _BUILD, 57, "failed to solve|returned a non-zero code|failed to build",
       r"^.{0,40}?(?P<message>(?:failed to solve: .+|ERROR: failed to (?:solve|build): .+|The command '.{1,600}' returned a non-zero code: \d+|Error: building at STEP .+))", last=True),
    _r("kubernetes", _INFRA, _TOOL, "backoff|pull|evicted|failedscheduling|unable to connect to the server", r"^.{0,300}?(?P<message>(?:ImagePullBackOff|ErrImagePull|CrashLoopBackOff|\bEvicted\b|FailedScheduling|Unable to connect to the server).*)"),
    _r("cloud", _INFRA, 39, "an error occurred (|throttl|accessdenied|credentials|quota", r"^.{0,200}?(?P<message>(?:An error occurred \(\w{1,60}\) when calling .+|Unable to locate credentials.*|ExpiredToken.*|.{0,40}[Qq]uota exceeded.*|(?:Error )?403 Forbidden.*rate limit.*))"),
    _r("cargo", _INFRA, _NETWORK, "failed to download|failed to fetch|failed to get", r"^\s{0,4}(?P<message>(?:error: failed to (?:download|fetch)|failed to download from|error: failed to get `).*)"),
    _r("dbt", _BUILD, _TOOL, " error in ", r"^(?:.{0,60}  )?(?P<message>(?:Database|Compilation|Runtime|Parsing) Error in (?:model|test|seed|snapshot|macro|sql).+)", r"^\s{1,8}(?P<detail>\S.+)"),
    _r("mkdocs", _BUILD, _TOOL, "in strict mode", r"^(?P<message>Aborted with \d{1,6} warnings? in strict mode.*)"),
    _r("cypress, playwright", _INFRA, _TOOL, "cypress failed to|executable doesn't exist", r"^.{0,100}?(?P<message>Cypress failed to (?:verify|start).+|.{0,60}Executable doesn't exist at .+)"),
    _r("terraform", _BUILD, _TOOL, "error: ", r"^Error: (?P<message>.+)\n\s{1,4}(?:on|with) \S{1,200}(?:\.tf line|,)"),
    _r("terraform", _BUILD, _TOOL, "error: ", r"^[│╷ ]{1,4}Error: (?P<message>.+)"),
    # The agent.
    _r("buildkite-agent", _INFRA, _TOOL, "\U0001f6a8 error", r"^\U0001f6a8 Error: (?P<message>(?:Error setting up job executor|.{0,60}failed to fetch secrets|.{0,20}(?:checking out|checkout|Failed to (?:checkout|clone))|(?:[Tt]he )?(?:global|agent) \S{1,40} hook exited"
       r"|.{0,40}(?:[Ff]ailed to upload|artifact upload)|.{0,40}(?:cloning|fetching) |[Ff]ailed to (?:load|download|checkout) plugin|plugin checkout|Error (?:creating|tearing down)).*)"),
    # Programs.
    _r("shell", _BUILD, _TOOL, "command not found|not found|is not recognized", r"^(?P<message>(?:\S{1,200}: )?(?:line \d{1,7}: |\d{1,7}: )?[^\s:]{1,200}: (?:command )?not found$|'.{1,200}' is not recognized as .+|\S{1,60}: .{0,60}The term '.{1,200}' is not recognized.*|(?:fish|zsh): [Cc]?ommand not found: .+|.{0,200}: executable file not found in \$PATH.*)", last=True),
    _r("shell", _BUILD, 35, "no such file or directory|permission denied|bad interpreter|syntax error", r"^(?P<message>(?:[\w./-]{0,200}(?:bash|sh|\.sh|zsh|env|python3?|exec)\S{0,20}: .{0,400}?(?:No such file or directory|Permission denied|bad interpreter.*|[Ss]yntax error.*))|(?:cp|mv|cat|ls|rm|cd|tar|mkdir|chmod|stat): .+: (?:No such file or directory|Permission denied))$", last=True),
    _r("command line", _BUILD, 36, "unknown|unrecognized|invalid option|arguments are required", r"^(?P<message>(?:[\w./-]{1,100}: )?(?:error: )?(?:unknown (?:shorthand )?(?:flag|option|command)|unrecognized (?:option|argument|command)s?|invalid option|the following arguments are required)\b.+)", last=True),
    _r("segmentation fault", _UNKNOWN, _SUMMARY, "segmentation fault|core dumped|sigsegv|bus error|sigabrt|illegal instruction|addresssanitizer|access violation",
       r"^.{0,300}?(?P<message>(?:Segmentation fault.*|\(core dumped\).*|SIGSEGV.*|Bus error.*|SIGABRT.*|Illegal instruction.*|ERROR: AddressSanitizer: .*|signal SIGSEGV.*))"),
    _r("go", _UNKNOWN, 42, "panic: ", r"^panic: (?P<message>.+)"),
    _r("rust", _UNKNOWN, 42, "panicked at", r"^thread '.{1,200}' (?:\(\d{1,10}\) )?(?P<message>panicked at .+)", r"^(?P<detail>(?!note: )\S.*)"),
    _r("python", _BUILD, 41, "syntaxerror|indentationerror|importerror|modulenotfounderror", r"^(?P<message>(?:SyntaxError|IndentationError|ImportError|ModuleNotFoundError): .+)"),
    _r("python", _UNKNOWN, _PROGRAM, "traceback|error", r"^(?P<message>(?:[a-z_][\w]{0,60}\.){0,8}[A-Z]\w{0,80}(?:Error|Exception|Interrupt|Exit)(?:: .+)?)$", last=True),
    _r("node", _UNKNOWN, _PROGRAM, "error: ", r"^(?:Uncaught )?(?P<message>(?:\w{0,60}Error(?: \[\w{1,60}\])?: .+))", last=True),
    _r("java", _UNKNOWN, _PROGRAM, "exception in thread", r"^(?P<message>Exception in thread .+)"),
    _r("ruby", _UNKNOWN, _PROGRAM, ".rb:", r"^\S{1,300}\.rb:\d{1,7}:in .{1,200}: (?P<message>.+ \([\w:]{1,100}\))"),
    _r("ruby", _BUILD, 39, "rake aborted!|bundler", r"^(?P<message>(?:rake aborted!|Could not find .{1,200} in (?:any of the sources|locally installed gems).*|Bundler could not find.*))", r"^(?P<detail>\S.*)"),
    # Anything.
    _r("any", _UNKNOWN, GENERIC, "error|fatal|fail|failure", r"^\s{0,12}(?:\S{1,60}[:\]] ){0,2}(?:\x60{0,3}|[✖✗❌\u00d7!] ?)(?P<message>(?:(?i:fatal|error|failure|failed)\b ?(?:\[\S{1,40}\])?[:!] ?\S.+))", last=True),
    _r("any", _UNKNOWN, 12, "fail|error|cannot|could not|unable", r"^(?!\U0001f6a8|user command error|[$+#] |~~~ |--- |\+\+\+ |.{0,300}(?:\b0 (?i:fail|error)|(?i:no (?:errors?|failures?)))).{0,300}?\b(?i:failed|failure|error|cannot|could not|unable to)\b.*", last=True),
]  # fmt: skip
