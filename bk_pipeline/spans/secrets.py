"""Recognizes secrets inside text and masks them.

`FAMILIES` lists the kinds: tokens with a prefix that identifies their issuer, armored keys, and
credentials in a known context (a URL, a header, a command line, an assignment).
`SUSPICIOUS` is one expression for Arrow (RE2: no look-around) that is found in every text with
any of them, so that Python's see only the few that may have one. All take linear time: each starts at a boundary, and what follows is bounded, possessive or consumed whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

MASK = "[masked]"

# Boundaries of a token. An underscore or a hyphen before a token is not part of it.
_B = r"(?<![A-Za-z0-9])"
_E = r"(?![A-Za-z0-9])"
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


@dataclass(frozen=True)
class Family:
    """One kind of secret.

    Attributes:
        name: The issuer of the secrets, or their kind.
        hints: Lower-case strings separated by spaces. Every text with such a secret contains
            one of them.
        mark: An RE2 expression that matches in every text with such a secret.
        pattern: The expression to mask; its group `keep` is kept in front of the mask.
        masked: The function that masks, if an expression is not sufficient.
    """

    name: str
    hints: str
    mark: str
    pattern: str = ""
    masked: Callable[[str], str] | None = None

    @cached_property
    def _hints(self) -> tuple[str, ...]:
        return tuple(self.hints.split(" "))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    @cached_property
    def _replacement(self) -> str:
        return rf"\g<keep>{MASK}" if "keep" in self._pattern.groupindex else MASK

    @property
    def marks(self) -> tuple[str, ...]:
        """What such a secret begins with, for the documentation."""
        shown = (_SHOWN.get(self.name) or self.hints).split(" ")
        return tuple(one.replace("␣", " ") for one in shown)

    def may_be_in(self, lowered: str) -> bool:
        """Return whether a text, given in lower case, may contain a secret of the family."""
        return any(hint in lowered for hint in self._hints)

    def mask(self, text: str) -> str:
        """Return `text` with each secret of the family replaced by `MASK`."""
        if self.masked is not None:
            return self.masked(text)
        return self._pattern.sub(self._replacement, text)


# Credentials in a known context.

# Suffixes of names of secrets. For `_TOKENS` only values that look random are masked.
_PASSWORDS = r"(?:passw(?:or)?d|passphrase|[_-]pwd|[_-]pass)"
_TOKENS = (
    r"(?:secret|token|[_-]auth|credentials?|writekey|secret[_-]key[_-]base"
    r"|(?:api|access|private|secret|auth|signing|encryption|license|ingest)[_-]?key)"
)
_VALUE = r"""(?P<value>\\"[^"\\\n]++(?:\\")?|"[^"\n]++"?|'[^'\n]++'?|[^\s'"`&;,|()<>\\]++)"""
_ASSIGNED = re.compile(
    rf"""(?P<keep>(?i:{_PASSWORDS}|{_TOKENS})(?:\\?["']?\s{{0,2}}=(?![=~>])\s{{0,2}}"""
    rf"""|\\?["']\s{{0,3}}:\s{{0,3}}(?=\\?["']))){_VALUE}"""
)
_FLAG = re.compile(
    rf"(?P<keep>(?<![\w-])--?(?i:[\w-]{{0,40}}?(?:{_PASSWORDS}|{_TOKENS}))[ \t]{{1,3}})(?![-|&;])"
    + _VALUE
)
_HEADER = re.compile(
    r"""(?P<keep>(?i:\b(?:x-[a-z-]{0,40}?(?:key|token|secret|auth|team)|(?:dd-)?api-key|fastly-key"""
    r"""|(?:private|job|deploy|circle|auth|access)-token)["']?[:=][ \t]{0,3}))""" + _VALUE
)
_NAME = re.compile(rf"(?i)(?:(?P<password>{_PASSWORDS})|{_TOKENS})$")
_SHORTEST_TOKEN = 8
_LONG_TOKEN = 20
# References to a secret: variables, placeholders, files and keys of secret stores.
_REFERENCE = re.compile(
    r"\\?\$\$?(?:[\w{(]|$)|`|%\w+%$|\{\{|<[^>]{0,80}>$|\*+$|\[masked\]"
    r"|(?:env|file|vault|op|arn|ref\+\w+)[:/]|/(?:[\w.-]+/)+[\w.-]*$"
)
_NO_TOKEN = re.compile(r"[@./~{\[]|[\w-]+=[\w/.$]|(?:projects|secrets?)[:/]")
_WORDS = frozenset(
    re.findall(
        r"\w+",
        "true false null none nil undefined yes no required optional prompt stdin is was must should"
        " or and to from in for with has does when not can will on via as by flag option file",
    )
)


def _is_harmless(name: str, value: str) -> bool:
    """Return whether the value of a name of a secret is not one: a reference, a path, a word."""
    bare = value.strip("\\\"'").strip()
    if not bare or bare.lower() in _WORDS or _REFERENCE.match(bare):
        return True
    found = _NAME.search(name.strip("\\\"' \t:=-"))
    if found and found["password"]:
        return bare.isdigit() and not re.search(r"(?i)passw|phrase", name)
    if len(bare) < _SHORTEST_TOKEN or _NO_TOKEN.match(bare):
        return True
    return len(bare) < _LONG_TOKEN and (bare.isdigit() or not re.search(r"\d", bare))


def _masked_value(found: re.Match[str]) -> str:
    value = found["value"]
    if _is_harmless(found["keep"], value):
        return found[0]
    quote = next((one for one in ('\\"', '"', "'") if value.startswith(one)), "")
    closed = quote if len(value) > len(quote) and value.endswith(quote) else ""
    return f"{found['keep']}{quote}{MASK}{closed}"


def _masked_assignments(text: str) -> str:
    for pattern in (_ASSIGNED, _FLAG, _HEADER):
        text = pattern.sub(_masked_value, text)
    return text


_AFTER_SCHEME = re.compile(r"""(?P<scheme>[A-Za-z][\w+.-]{0,20})?://(?P<rest>[^\s'"<>`]++)""")
_VARIABLES = re.compile(r"(?:[\w.-]*:)?(?:\\?\$\$?(?:\w+|\{\w+\})|\*+)|\[masked\]")
_HOST_AFTER = re.compile(r"(?<!/)@(?=[\w.-]+(?::\d+)?(?:[/?#,;]|$))")
_PORT = re.compile(r":(?:\d{1,5}|\\?\$\$?(?:\w+|\{\w+\}))$")


def _masked_urls(text: str) -> str:
    return _AFTER_SCHEME.sub(_masked_url, text)


def _masked_url(found: re.Match[str]) -> str:
    """Mask the credentials of a URL, and of URLs that follow it without a space."""
    first, *others = found["rest"].split("://")
    scheme = found["scheme"] or ""
    made = f"{scheme}://{_masked_userinfo(first, scheme)}"
    for before, part in zip([first, *others], others, strict=False):
        made += f"://{_masked_userinfo(part, before)}"
    return made


def _masked_userinfo(rest: str, scheme: str) -> str:
    """Mask `user:password` in front of a host; the password may contain `@`, `:` and `/`."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    end = authority.rfind("@")
    if end >= 0:
        if ":" in authority[:end]:  # a password, which may contain a slash
            end = max([end, *(one.start() for one in _HOST_AFTER.finditer(rest))])
        elif not scheme.endswith(("http", "https")):
            return rest  # a user name without a password, as in `ssh://git@`
    elif ":" in authority and authority[0] != "[" and not _PORT.search(authority):
        end = rest.rfind("@")
    if end < 0 or _VARIABLES.fullmatch(rest[:end]):
        return rest
    return MASK + rest[end:]


# What the documentation shows of families whose hints, in lower case, say too little.
_SHOWN = {
    "Buildkite": "bkua_ bkct_ bkaj_ bkpt_ bk…_",
    "JSON web tokens": "eyJ….eyJ… ZXlK…",
    "AWS": "AKIA ASIA ABIA ACCA A3T… ABSK X-Amz-Signature= X-Amz-Security-Token=",
    "Airtable": "pat….…",
    "Alibaba Cloud": "LTAI",
    "Artifactory": "AKCp cmVmd",
    "Atlassian": "ATATT3 ATCTT3 ATBB",
    "CircleCI": "CCIPAT_ CCIPRJ_",
    "Contentful": "CFPAT-",
    "Docker Hub": "dckr_pat_ dckr_oat_ dckr_…_",
    "Doppler": "dp.pt. dp.st. dp.ct. dp.sa. dp.scim. dp.audit. dp.said.",
    "Dynatrace": "dt0c01. dt0s01. dt0….",
    "EasyPost": "EZAK EZTK",
    "Facebook": "EAAM EAAC",
    "Flutterwave": "FLWSECK- FLWPUBK- FLWSECK_TEST- FLWPUBK_TEST-",
    "GitLab": (
        "glpat- gldt- glft- glsoat- glrt- glrtr- glcbt- glptt- glimt- glagent- gloas- glwt- glffct- "
        "GR1348941 _gitlab_session="
    ),
    "GoCardless, Lob": "live_ test_ live_pub_ test_pub_",
    "Google": "AIza GOCSPX- ya29. 1//0",
    "Grafana": "glsa_ glc_ eyJrIjoi",
    "HashiCorp (Terraform, Vault)": "….atlasv1. hvs. hvb. hvr. s.…",
    "Heroku": "HRKU-",
    "Honeycomb": "hcaik_ hcbik_ hcxik_ hcaic_ hcalk_ hcamk_ hc…_",
    "Intra42": "s-s4t2ud- s-s4t2af-",
    "Mailchimp": "…-us1",
    "Mailgun": "key-… pubkey-… mailgun",
    "New Relic": "NRAK- NRII- NRJS- NRAA- NRRA- …NRAL",
    "NuGet": 'oy2 <add␣key="…Password"␣value=',
    "Octopus Deploy": "API-",
    "OpenAI, OpenRouter": "sk-… sk-proj- sk-svcacct- sk-admin- sk-or-v1-",
    "Plaid": "access-sandbox- access-development- access-production-",
    "PlanetScale": "pscale_tkn_ pscale_pw_ pscale_oauth_",
    "Postman": "PMAK-",
    "SendGrid": "SG.",
    "Shopify": "shpat_ shpca_ shppa_ shpss_ shp…_",
    "Sidekiq": "BUNDLE_ENTERPRISE__CONTRIBSYS__COM= BUNDLE_GEMS__CONTRIBSYS__COM=",
    "Slack": "xoxb- xoxp- xoxe- xoxa- xoxr- xoxs- xox…- xapp- hooks.slack.com/services/",
    "Square": "EAAA sq0atp- sq0csp- sq0…-",
    "Stripe": "sk_live_ sk_test_ sk_prod_ rk_live_ rk_test_ rk_prod_ whsec_",
    "Telegram": "…:A…",
    "Twilio": "SK…",
    "X (Twitter)": "AAAAAAAAAAAAAAAAAAAAA…",
    "Yandex": "AQVN t1. YC…",
    "crates.io": "cio…",
}

FAMILIES = (
    # Whole documents and headers come first, so that they are not masked in parts.
    Family(
        "private keys (PEM, OpenSSH, PGP)", "private key",
        r"PRIVATE KEY",
        r"-{4,5} ?BEGIN [A-Z0-9 _-]{0,60}PRIVATE KEY(?: BLOCK)? ?-{4,5}"
        r"(?s:.*?)(?:-{4,5} ?END [A-Z0-9 _-]{0,60}PRIVATE KEY(?: BLOCK)? ?-{4,5}|\Z)",
    ),
    Family(
        "private keys in base64", "ls0tls1crudjti",
        r"LS0tLS1CRUdJTi",
        r"LS0tLS1CRUdJTi(?:BQUklWQVRF|BSU0EgUFJJVkFUR|BFQyBQUklWQVRF|BEU0EgUFJJVkFUR"
        r"|BPUEVOU1NIIFBSSVZBVE|BFTkNSWVBURUQgUFJJVkFUR|BQR1AgUFJJVkFUR)[A-Za-z0-9+/=]*",
    ),
    Family(
        "private keys of PuTTY", "putty-user-key-file-",
        r"PuTTY-User-Key-File-",
        r"PuTTY-User-Key-File-(?s:.*?)(?:Private-MAC: ?[0-9a-f]+|\Z)",
    ),
    Family("age", "age-secret-key-", r"AGE-SECRET-KEY-", r"AGE-SECRET-KEY-(?:PQ-)?1[A-Z0-9]{50,}"),
    Family(
        "`Authorization` headers", "authorization",
        r"(?i:authorization)",
        r"""(?i:(?P<keep>authorization["']?\s{0,3}(?::|=|%3A)(?:\s{0,3}["'])?)\s{0,3}(?:"""
        r"""(?:aws4-hmac-sha256|digest)\s[^'"\n]+"""
        r"""|(?:bearer|basic|token|apikey|api-key|negotiate|ntlm|hawk|genie_?key)(?:\s{1,3}|%20)[^\s'"$][^\s'"]*"""
        r"""|(?=[^\s'"]{0,256}\d)(?![$<{\[*])[^\s'",;]{16,}))""",
    ),
    Family(
        "bearer tokens", "bearer",
        r"(?i:bearer)\s",
        r"(?P<keep>\b(?i:bearer)\s{1,3})(?=[A-Za-z._~+/=-]{0,256}\d)[\w.~+/=-]{16,}",
    ),
    Family("passwords in URLs", "://", r"://[^\s'\"<>`]*@", masked=_masked_urls),
    Family(
        "JSON web tokens", "eyj zxlk",
        r"eyJ|ZXlK",
        r"(?<![\w-])(?P<keep>(?>[\w-]*?(?=eyJ)))eyJ[\w-]{8,}+={0,2}(?:\.[\w-]*+={0,2}){2,4}"
        r"|(?<![A-Za-z0-9+/])ZXlK[A-Za-z0-9+/=]{60,}",
    ),
    # Tokens with a prefix, in alphabetical order after Buildkite's.
    Family("Buildkite", "bk", r"bk[a-z]{2,4}_", _B + r"bk[a-z]{2,4}_(?:\[masked\]|[A-Za-z0-9]{20,})"),
    Family(
        "1Password", "ops_eyj a3-",
        r"ops_eyJ|A3-[A-Z0-9]{6}",
        rf"ops_eyJ[A-Za-z0-9+/]{{100,}}={{0,3}}|{_B}A3-[A-Z0-9]{{6}}-[A-Z0-9]{{6,11}}(?:-[A-Z0-9]{{5}}){{3,4}}",
    ),
    Family("Adobe", "p8e-", r"p8e-", _B + r"p8e-[A-Za-z0-9]{32,}"),
    Family("Airtable", "pat", r"pat[A-Za-z0-9]{9}", _B + r"pat[A-Za-z0-9]{14}\.[a-f0-9]{64}"),
    Family("Alibaba Cloud", "ltai", r"LTAI", _B + r"LTAI[A-Za-z0-9]{16,}"),
    Family("Anthropic", "sk-ant-", r"sk-ant-", _B + r"sk-ant-[\w-]{20,}"),
    Family("Artifactory", "akcp cmvmd", r"AKCp|cmVmd", _B + r"(?:AKCp[A-Za-z0-9]{60,}|cmVmd[A-Za-z0-9]{59,})"),
    Family(
        "Atlassian", "tt3 atbb", r"AT[AC]TT3|ATBB", _B + r"(?:AT[AC]TT3[\w=-]{20,}|ATBB[A-Za-z0-9]{32,}[\w=]*)"
    ),
    Family(
        "Authress", ".acc",
        r"\.acc[_-]",
        _B + r"(?:sc|ext|scauth|authress)_[a-z0-9]{5,30}\.[a-z0-9]{4,6}\.acc[_-][a-z0-9-]{10,32}"
        r"\.[A-Za-z0-9+/_=-]{30,}",
    ),
    Family(
        "AWS secrets", "aws_secret_access_key",
        r"(?i:aws_secret_access_key)",
        r"(?i:(?<=aws_secret_access_key)\W{1,6}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+]))",
    ),
    Family(
        "AWS", "akia asia abia acca a3t absk x-amz-",
        r"A(?:KIA|SIA|BIA|CCA|3T|BSK)|(?i:x-amz-)",
        _B + rf"(?:(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z0-9]{{16}}{_E}"
        r"|ABSK[A-Za-z0-9+/]{100,}={0,2}"
        r"|(?P<keep>(?i:x-amz-(?:signature|security-token)[=:]))[\w%./+=-]{16,})",
    ),
    Family(
        "Azure", "q~ azdo jqqj99 accountkey= sharedaccesskey= sig=",
        r"Q~|AZDO|JQQJ99|AccountKey=|SharedAccessKey=|sig=",
        r"(?<![\w~.-])[\w~.]{3}\dQ~[\w~.-]{31,}"
        rf"|{_B}[A-Za-z0-9]{{76}}AZDO[A-Za-z0-9]{{4}}|{_B}[A-Za-z0-9]{{52}}JQQJ99[A-Za-z0-9]{{20,}}"
        r"|(?P<keep>\b(?:AccountKey|SharedAccessKey|sig)=)[A-Za-z0-9%+/]{40,}={0,2}",
    ),
    Family(
        "Brevo", "xkeysib- xsmtpsib-", r"(?:xkeysib|xsmtpsib)-", r"(?:xkeysib|xsmtpsib)-[a-f0-9]{64}-[A-Za-z0-9]{16,}"
    ),
    Family("CircleCI", "ccipat_ cciprj_", r"CCIP(?:AT|RJ)_", _B + r"CCIP(?:AT|RJ)_[A-Za-z0-9]{8,}_[a-f0-9]{40,}"),
    Family("ClickHouse Cloud", "4b1d", r"4b1d", rf"{_B}4b1d[A-Za-z0-9]{{38}}{_E}"),
    Family("Clojars", "clojars_", r"(?i:CLOJARS_)", r"(?i:CLOJARS_[a-z0-9]{60,})"),
    Family("Cloudflare", "v1.0-", r"v1\.0-", _B + r"v1\.0-[a-f0-9]{24}-[a-f0-9]{146}"),
    Family("Contentful", "cfpat-", r"CFPAT-", _B + r"CFPAT-[\w-]{40,}"),
    Family("crates.io", "cio", r"cio[A-Za-z0-9]{9}", rf"{_B}cio[A-Za-z0-9]{{32}}{_E}"),
    Family("Databricks", "dapi dose", r"dapi|dose", _B + r"(?:dapi|dose)[a-f0-9]{32}(?:-\d)?"),
    Family("Datadog", "ddapi_ ddapp_ ddpat_", r"dd(?:api|app|pat)_", _B + r"dd(?:api|app|pat)_[A-Za-z0-9]{30,}"),
    Family("Defined Networking", "dnkey-", r"dnkey-", _B + r"dnkey-[\w=-]{26}-[\w=-]{52,}"),
    Family("DigitalOcean", "doo_v1_ dop_v1_ dor_v1_", r"do[opr]_v1_", _B + r"(?i:do[opr]_v1_[a-f0-9]{64,})"),
    Family(
        "Discord", "discord",
        r"\.[\w-]{6}\.[\w-]{9}|discord(?:app)?\.com/api/webhooks/",
        r"(?<![\w.-])[MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,}"
        r"|(?P<keep>discord(?:app)?\.com/api/webhooks/)\d{10,25}/[\w-]{20,}",
    ),
    Family("Docker Hub", "dckr_", r"dckr_", _B + r"dckr_[a-z]{2,6}_[\w-]{20,}"),
    Family(
        "Doppler", "dp.",
        r"dp\.[a-z]{2,5}\.",
        _B + r"dp\.(?:pt|st|ct|sa|scim|audit|said)\.(?:[\w-]{1,60}\.)?[A-Za-z0-9]{40,}",
    ),
    Family("Dropbox", "sl.", r"sl\.", _B + r"sl\.(?:u\.|B\.)?[\w=-]{130,}"),
    Family("Duffel", "duffel_", r"duffel_", _B + r"duffel_(?:test|live)_[\w=-]{43,}"),
    Family("Dynatrace", "dt0", r"dt0[a-z]\d\d\.", r"dt0[a-z]\d\d\.[A-Za-z0-9]{8,24}\.[A-Za-z0-9]{64,}"),
    Family("EasyPost", "ezak eztk", r"EZ[AT]K", _B + r"EZ[AT]K[A-Za-z0-9]{54,}"),
    Family("Facebook", "eaam eaac", r"EAA[MC]", _B + r"EAA[MC][A-Za-z0-9]{100,}"),
    Family("Figma", "figd_ figr_ figu_", r"fig[dru]_", _B + r"fig[dru]_[\w-]{36,}"),
    Family("Flutterwave", "flw", r"FLW", _B + r"FLW(?:SECK|PUBK)(?:_TEST)?-[A-Za-z0-9]{12,}(?:-X)?"),
    Family(
        "Fly.io", "fo1_ fm1a_ fm1r_ fm2_",
        r"fo1_|fm1[ar]_|fm2_",
        _B + r"(?:fo1_[\w-]{43,}|fm(?:1[ar]|2)_[A-Za-z0-9+/]{60,}={0,3})",
    ),
    Family("Frame.io", "fio-u-", r"fio-u-", r"fio-u-[\w=-]{64,}"),
    Family(
        "GitHub", "ghp_ gho_ ghr_ ghs_ ghu_ github_pat_",
        r"gh[oprsu]_|github_pat_",
        _B + r"(?:gh[oprsu]_[A-Za-z0-9_]{30,}(?:\.[\w-]+)*|github_pat_\w{22,})",
    ),
    Family(
        "GitLab", "glpat- gldt- glft- glsoat- glrt- glrtr- glcbt- glptt- glimt- glagent- gloas- glwt- glffct- gr1348941 _gitlab_session=",
        r"gl[a-z]{2,5}-|GR1348941|_gitlab_session=",
        _B + r"(?:gl(?:pat|dt|ft|soat|rtr?|cbt|ptt|imt|agent|oas|wt|ffct)-[\w=-]{16,}(?:\.[\w-]+)*"
        r"|GR1348941[\w-]{20,})|(?P<keep>_gitlab_session=)[0-9a-z]{32,}",
    ),
    Family(
        "Google", "aiza gocspx- ya29. 1//0",
        r"AIza|GOCSPX-|ya29\.|1//0",
        _B + r"(?:AIza[\w-]{35,}|GOCSPX-[\w-]{20,}|ya29\.[\w.-]{20,}|1//0[\w-]{30,})",
    ),
    Family(
        "Grafana", "glsa_ glc_ eyjrijoi",
        r"glsa_|glc_|eyJrIjoi",
        _B + r"(?:glsa_[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}|glc_[A-Za-z0-9+/]{32,}={0,3}"
        r"|eyJrIjoi[A-Za-z0-9]{60,}={0,3})",
    ),
    Family("Groq", "gsk_", r"gsk_", _B + r"gsk_[A-Za-z0-9]{40,}"),
    Family(
        "Harness", "pat. sat.", r"[ps]at\.", _B + r"[ps]at\.[\w-]{22}\.[0-9A-Za-z]{24}\.[A-Za-z0-9]{20,}"
    ),
    Family(
        "HashiCorp (Terraform, Vault)", ".atlasv1. hvs. hvb. hvr. s.",
        r"\.atlasv1\.|hv[sbr]\.|s\.[A-Za-z0-9]{9}",
        _B + r"(?:[A-Za-z0-9]{14}\.atlasv1\.[\w=-]{60,}|hv[sbr]\.[\w-]{20,}"
        rf"|(?<![\w.])s\.(?=[A-Za-z]{{0,23}}\d)[A-Za-z0-9]{{24}}(?:\.[A-Za-z0-9]{{5}})?{_E})",
    ),
    Family("Heroku", "hrku-", r"HRKU-", _B + r"HRKU-[\w-]{36,}"),
    Family(
        "Honeycomb", "ik_ ic_ lk_ mk_",
        r"hc[a-z]{3}_",
        _B + r"hc[a-z]{3}_(?:[a-z0-9]{58,}|[a-z0-9]{26}:[\w-]{16,})",
    ),
    Family("HubSpot", "pat-na pat-eu pat-ap", r"pat-(?:na|eu|ap)\d-", _B + rf"pat-(?:na|eu|ap)\d-(?i:{_UUID})"),
    Family("Hugging Face", "hf_ api_org_", r"hf_|api_org_", _B + r"(?:hf_|api_org_)[A-Za-z0-9]{30,}"),
    Family("Infracost", "ico-", r"ico-", _B + r"ico-[A-Za-z0-9]{32,}"),
    Family("Intra42", "s-s4t2", r"s-s4t2", _B + r"s-s4t2(?:ud|af)-[a-f0-9]{64,}"),
    Family("LaunchDarkly", "sdk-", r"sdk-[0-9a-f]{8}-", _B + rf"sdk-{_UUID}"),
    Family("Linear", "lin_api_ lin_oauth_", r"lin_(?:api|oauth)_", _B + r"lin_(?:api|oauth)_[A-Za-z0-9]{32,}"),
    Family(
        "GoCardless, Lob", "live_ test_",
        r"(?:live|test)_(?:pub_)?[a-f0-9]{9}|live_[\w=-]{40}",
        rf"{_B}(?:(?:live|test)_(?:pub_)?[a-f0-9]{{31,35}}{_E}"
        r"|(?<!_)live_(?=[A-Za-z_=-]{0,39}\d)[A-Za-z0-9_=-]{40}(?![\w=-]))",
    ),
    Family("Mailchimp", "-us", r"[a-f0-9]-us\d", rf"{_B}[a-f0-9]{{32}}-us\d{{1,2}}{_E}"),
    Family(
        "Mailgun", "mailgun",
        r"(?i:mailgun)",
        rf"(?<![\w-])(?:(?:pub)?key-[a-f0-9]{{32}}|[a-h0-9]{{32}}-[a-h0-9]{{8}}-[a-h0-9]{{8}}){_E}",
    ),
    Family("Mapbox", "sk.eyj pk.eyj", r"[sp]k\.eyJ", _B + r"[sp]k\.eyJ[\w-]{20,400}\.[\w-]{20,}"),
    Family("MaxMind", "_mmk", r"_mmk", _B + r"[A-Za-z0-9]{6}_[A-Za-z0-9]{29}_mmk"),
    Family(
        "Microsoft Teams", "webhook.office.com",
        r"webhook\.office\.com",
        r"(?P<keep>webhook\.office\.com/webhookb2/)[\w@/-]{36,}",
    ),
    Family("Netlify", "nfp_ nfc_ nfo_", r"nf[cpo]_", _B + r"nf[cpo]_[A-Za-z0-9]{36,}"),
    Family(
        "New Relic", "nrak- nrii- nrjs- nraa- nrra- nral", r"NR(?:AK|II|JS|AA|RA)-|NRAL", _B + r"(?:NR(?:AK|II|JS|AA|RA)-[A-Za-z0-9-]{19,}|[A-Za-z0-9]{36}NRAL)"
    ),
    Family("Notion", "ntn_ secret_", r"ntn_|secret_", _B + r"(?:ntn_[A-Za-z0-9]{40,}|secret_[A-Za-z0-9]{43,})"),
    Family("npm", "npm_", r"(?i:npm_)", _B + r"(?i:npm_[a-z0-9]{36,})"),
    Family(
        "NuGet", "oy2 <add",
        r"oy2|<add ",
        rf"{_B}oy2[a-z0-9]{{43}}{_E}"
        r"""|(?P<keep><add key=\\?["'](?i:(?:ClearText)?Password)\\?["']\s{1,3}value=\\?["'])[^"'\\\n]{1,200}""",
    ),
    Family("Octopus Deploy", "api-", r"API-[A-Z0-9]{9}", rf"{_B}API-[A-Z0-9]{{25,}}{_E}"),
    Family(
        "OpenAI, OpenRouter", "sk-",
        r"sk-",
        _B + r"sk-(?:(?:proj|svcacct|admin|None|or-v1)-[\w-]{20,}|[A-Za-z0-9]{32,})",
    ),
    Family("OpenShift", "sha256~", r"sha256~", _B + r"sha256~[\w-]{43,}"),
    Family("Perplexity", "pplx-", r"pplx-", _B + r"pplx-[A-Za-z0-9]{40,}"),
    Family("Pinecone", "pcsk_", r"pcsk_", _B + r"pcsk_\w{40,}"),
    Family(
        "Plaid", "access-", r"access-(?:sandbox|dev|prod)", _B + rf"access-(?:sandbox|development|production)-{_UUID}"
    ),
    Family("PlanetScale", "pscale_", r"pscale_", _B + r"pscale_[a-z]{2,8}_[\w=.-]{30,}"),
    Family("PostHog", "phx_ phs_", r"ph[xs]_", _B + r"ph[xs]_[A-Za-z0-9]{40,}"),
    Family("Postman", "pmak-", r"PMAK-", _B + r"PMAK-[A-Fa-f0-9]{24}-[A-Fa-f0-9]{34}"),
    Family("Prefect", "pnu_ pnb_", r"pn[ub]_", _B + r"pn[ub]_[A-Za-z0-9]{36,}"),
    Family("Pulumi", "pul-", r"pul-", _B + r"pul-[a-f0-9]{40,}"),
    Family("PyPI", "pypi-", r"pypi-", _B + r"pypi-(?![a-z-]{40})[\w-]{40,}"),
    Family("ReadMe", "rdme_", r"rdme_", _B + r"rdme_[a-z0-9]{70,}"),
    Family("Replicate", "r8_", r"r8_", _B + r"r8_[A-Za-z0-9]{37,}"),
    Family("RubyGems", "rubygems_", r"rubygems_", _B + r"rubygems_[a-f0-9]{48,}"),
    Family("Scalingo", "tk-us-", r"tk-us-", _B + r"tk-us-[\w-]{48,}"),
    Family("SendGrid", "sg.", r"SG\.", _B + r"SG\.[\w=-]{16,32}\.[\w=-]{32,}"),
    Family("Sentry", "sntrys_ sntryu_", r"sntry[su]_", _B + r"sntry(?:s_eyJ[\w+/=-]{20,}|u_[a-f0-9]{64,})"),
    Family("Settlemint", "sm_aat_ sm_pat_ sm_sat_", r"sm_[aps]at_", _B + r"sm_[aps]at_[A-Za-z0-9]{16,}"),
    Family("Shippo", "shippo_", r"shippo_", _B + r"shippo_(?:live|test)_[a-fA-F0-9]{40,}"),
    Family("Shopify", "shp", r"shp[a-z]{2,3}_", _B + r"shp[a-z]{2,3}_[a-fA-F0-9]{32,}"),
    Family(
        "Slack", "xox xapp- hooks.slack",
        r"xox|xapp-|hooks\.slack",
        _B + r"(?:xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}"
        r"|(?P<keep>hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers|commands)/)[\w/-]{20,})",
    ),
    Family(
        "Sidekiq", "contribsys__com",
        r"(?i:contribsys__com)",
        r"(?P<keep>(?i:BUNDLE_(?:ENTERPRISE|GEMS)__CONTRIBSYS__COM)\W{1,5})[a-f0-9]{8}:[a-f0-9]{8}",
    ),
    Family("Snyk", "snyk_", r"snyk_[a-z]at\.", _B + r"snyk_[a-z]at\.[\w.-]{20,}"),
    Family("SonarQube", "sqa_ sqp_ squ_", r"sq[apu]_", _B + r"sq[apu]_[a-f0-9]{40,}"),
    Family(
        "Sourcegraph", "sgp_ slk_", r"sgp_|slk_", _B + r"(?:sgp_(?:(?:[a-f0-9]{16}|local)_)?[a-f0-9]{40,}|slk_[a-f0-9]{64,})"
    ),
    Family(
        "Square", "eaaa sq0",
        r"EAAA|sq0[a-z]{3}-",
        rf"(?<![\w+/-])EAAA(?=[A-Za-z_-]{{0,59}}\d)[\w-]{{22,60}}(?![\w+/=-])|{_B}sq0[a-z]{{3}}-[\w-]{{22,}}",
    ),
    Family(
        "Stripe", "k_test_ k_live_ k_prod_ whsec_",
        r"[sr]k_(?:test|live|prod)_|whsec_",
        _B + r"(?:[sr]k_(?:test|live|prod)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/]{24,}={0,2})",
    ),
    Family(
        "Supabase", "sbp_ sb_secret_", r"sbp_|sb_secret_", _B + r"(?:sbp_[a-f0-9]{40,}|sb_secret_[\w-]{20,})"
    ),
    Family("Tailscale", "tskey-", r"tskey-", _B + r"tskey-[a-z]{2,12}-[\w-]{16,}"),
    Family("Telegram", ":a", r"\d:A[\w-]{9}", _B + r"\d{5,16}:A[\w-]{34}(?![\w-])"),
    Family("Twilio", "sk", r"SK[0-9a-fA-F]{9}", rf"{_B}SK[0-9a-fA-F]{{32}}{_E}"),
    Family("Typeform", "tfp_", r"tfp_", _B + r"tfp_[\w.=-]{59,}"),
    Family(
        "X (Twitter)", "aaaaaaaaaaaaaaaaaaaaa",
        r"A{21}[A-Za-z0-9%]{9}",
        r"(?<![A-Za-z0-9+/=])A{21,22}(?!A)[A-Za-z0-9%]{80,100}(?![A-Za-z0-9+/=])",
    ),
    Family("xAI", "xai-", r"xai-", _B + r"xai-[A-Za-z0-9]{60,}"),
    Family(
        "Yandex", "aqvn t1. yc", r"t1\.|AQVN|YC[\w-]{9}",
        _B + r"(?:t1\.[\w-]{1,200}={0,2}\.[\w-]{86}={0,2}|AQVN[\w-]{35,}|(?<![\w-])YC(?=[A-Za-z_-]{0,37}\d)[\w-]{38}(?![\w-]))",
    ),
    # Arguments and assignments come last, so that tokens with a prefix are masked as such.
    Family(
        "`curl -u user:password`", "curl",
        r"\bcurl\b",
        r"""(?P<keep>\s(?:-u|--user|-U|--proxy-user)[ =]?["']?[^\s:'"$]{1,128}:)(?!\d{1,6}(?:\s|$))[^\s'"$][^\s'"]*""",
    ),
    Family(
        "`docker login -p`, `sshpass -p`", "login sshpass",
        r"\blogin\b|\bsshpass\b",
        r"""(?P<keep>\b(?:docker|podman|helm registry|oras|crane|skopeo|buildah|az acr) login\b[^\n;|&]{0,256}?\s-p[ =]?["']?"""
        r"""|\bsshpass\s{1,3}-p\s?["']?|\blogin\s{1,3}\S{1,128}\s{1,3}password\s{1,3})(?![-$])[^\s'"]+""",
    ),
    Family(
        "`--password=…`, `TOKEN=…` and the like", "passw passphrase pwd pass secret token auth credential writekey key team",
        rf"""(?i:(?:{_PASSWORDS}|{_TOKENS})(?:["']?\s{{0,2}}=|["']\s{{0,3}}:|[ \t])|(?:key|token|secret|auth|team)["']?[:=])""",
        masked=_masked_assignments,
    ),
)  # fmt: skip

# All hints, each with its family's index: one loop over these is faster than one over families.
_HINTS = tuple((hint, index) for index, one in enumerate(FAMILIES) for hint in one.hints.split(" "))
SUSPICIOUS = "|".join(f"(?:{family.mark})" for family in FAMILIES)


def mask_secrets(text: str) -> str:
    """Return `text` with everything that looks like a secret replaced by `MASK`."""
    lowered = text.lower()
    for index in sorted({index for hint, index in _HINTS if hint in lowered}):
        text = FAMILIES[index].mask(text)
    return text


# In logs, where any text may stand beside a value, more is masked than in commands and labels.
_LOGGED = re.compile(
    rf"""(?P<keep>(?i:[\w.-]{{0,60}}?(?:{_PASSWORDS}|pass|pwd|{_TOKENS}))["']?"""
    r"""(?:\s{0,3}(?::|=>)\s{0,3}|\s{1,3}(?i:is|was|=)\s{1,3}|(?<=[A-Z])[ \t]{1,3}))""" + _VALUE
)
_DENSE = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9+]{24,512}={0,2}(?![A-Za-z0-9])")
_FEWEST_DIGITS, _MOST_RUN_SHARE = 3, 0.4


def _masked_logged(text: str) -> str:
    return _LOGGED.sub(_masked_value, text)


def _masked_dense(text: str) -> str:
    """Mask what looks random: many letters of both cases with digits among them."""
    return _DENSE.sub(lambda found: MASK if _is_random(found[0]) else found[0], text)


def _is_random(text: str) -> bool:
    """Return whether letters of both cases and digits alternate, as in no name."""
    runs = re.findall(r"[a-z]+|[A-Z]+|[0-9]+", text)
    digits = sum(map(len, filter(str.isdigit, runs)))
    kinds = text.upper() != text != text.lower()
    return kinds and digits >= _FEWEST_DIGITS and len(runs) >= _MOST_RUN_SHARE * len(text)


LOG_FAMILIES = (
    Family(
        "cookies", "cookie", "",
        r"""(?P<keep>\b(?i:(?:set-)?cookie)["']?\s{0,2}[:=]\s{0,3})(?=[^\s=;]{1,80}=)[^\n]+""",
    ),
    Family("registry logins", "auth", "", r"""(?P<keep>["']auth["']\s{0,3}:\s{0,3}["'])[\w+/=-]{6,}"""),
    Family(
        "basic credentials", "basic", "",
        r"(?P<keep>\b[Bb]asic\s{1,3})(?=[A-Za-z+/]{0,256}[\d=])[A-Za-z0-9+/]{8,}={0,2}",
    ),
    Family("`mysql -p`", "mysql mariadb", "", r"(?P<keep>\b(?:mysql|mariadb)[^\n|;&]{0,200}?\s-p)(?=[^\s$-])\S+"),
    Family("Oracle", ":thin:", "", r"(?P<keep>:thin:[^/\s]{1,60}/)[^@\s]+(?=@)"),
    Family(
        "`echo … | docker login`", "echo", "",
        r"""(?P<keep>\becho\s{1,3}(?:-n\s{1,3})?["']?)[^\s$|"']{3,512}(?=["']?\s{0,3}\|[^\n]{0,80}(?:login|passw))""",
    ),
    Family("logins", "login=", "", r"(?P<keep>\blogin=)(?=[A-Za-z_-]{0,64}\d)[\w-]{16,}"),
    Family("`TOKEN: …` and the like", "pass pwd secret token auth credential key", "", masked=_masked_logged),
    Family("random text", "", "", masked=_masked_dense),
)  # fmt: skip


def mask_log_secrets(text: str) -> str:
    """Return text of a log with all that looks, or may look, like a secret masked."""
    text = mask_secrets(text)
    lowered = text.lower()
    for family in LOG_FAMILIES:
        if family.may_be_in(lowered):
            text = family.mask(text)
    return text


def is_secret(name: str, value: str) -> bool:
    """Return whether `value` is a secret by its name: `deploy-password`, `NPM_TOKEN`."""
    return bool(_NAME.search(name)) and not _is_harmless(name, value)
