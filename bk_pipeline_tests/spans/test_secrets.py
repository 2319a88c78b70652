from __future__ import annotations

import re
import time

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from bk_pipeline.spans.secrets import FAMILIES, MASK, SUSPICIOUS, mask_secrets

HEX, ALNUM, LOWER = "0a1b2c3d4e5f6789" * 20, "aB3dE5gH7jK9mN1p" * 30, "a1b2c3d4e5f6g7h8" * 20
UPPER = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L" * 3
UUID = "0a1b2c3d-4e5f-6789-8abc-0a1b2c3d4e5f"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJub2JvZHkifQ.c2lnbmF0dXJlX29mX25vdGhpbmc"


def key(label: str, body: str = "MIIEow\nIBAAK") -> str:
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----"


# Made up here, of the shapes that their makers document; none of them was ever issued.
SAMPLES = {
    "private keys (PEM, OpenSSH, PGP)": [
        key("RSA PRIVATE KEY"),
        key("OPENSSH PRIVATE KEY"),
        key("PGP PRIVATE KEY BLOCK"),
        key("ENCRYPTED PRIVATE KEY"),
        key("X9_42-DH PRIVATE KEY"),
    ],
    "private keys in base64": ["LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQ" + ALNUM[:60]],
    "private keys of PuTTY": ["PuTTY-User-Key-File-3: ssh-rsa\nPrivate-MAC: " + HEX[:64]],
    "age": ["AGE-SECRET-KEY-1" + UPPER[:58]],
    "JSON web tokens": [JWT, "ZXlK" + ALNUM[:80]],
    "Buildkite": [f"{one}_{HEX[:40]}" for one in ("bkua", "bkct", "bkpt")] + [f"bkaj_{JWT}"],
    "1Password": ["ops_eyJ" + ALNUM[:260]],
    "Adobe": ["p8e-" + HEX[:32]],
    "Airtable": [f"pat{ALNUM[:14]}.{HEX[:64]}"],
    "Alibaba Cloud": ["LTAI" + ALNUM[:20]],
    "Anthropic": ["sk-ant-api03-" + ALNUM[:93] + "AA"],
    "Artifactory": ["AKCp" + ALNUM[:69], "cmVmd" + ALNUM[:59]],
    "Atlassian": ["ATATT3" + ALNUM[:186], "ATBB" + ALNUM[:32]],
    "Authress": [f"sc_{LOWER[:10]}.{LOWER[:5]}.acc_{LOWER[:20]}.{ALNUM[:60]}"],
    "AWS": ["AKIA" + UPPER[:16], "ASIA" + UPPER[:16], "ABSK" + ALNUM[:120]],
    "Azure": ["aB38Q~" + ALNUM[:34], ALNUM[:76] + "AZDO4aB1", ALNUM[:52] + "JQQJ99" + ALNUM[:26]],
    "Brevo": [f"xkeysib-{HEX[:64]}-{LOWER[:16]}"],
    "CircleCI": [f"CCIPAT_{ALNUM[:22]}_{HEX[:40]}"],
    "ClickHouse Cloud": ["4b1d" + ALNUM[:38]],
    "Clojars": ["CLOJARS_" + LOWER[:60]],
    "Cloudflare": [f"v1.0-{HEX[:24]}-{HEX[:146]}"],
    "Contentful": ["CFPAT-" + ALNUM[:43]],
    "crates.io": ["cio" + ALNUM[:32]],
    "Databricks": ["dapi" + HEX[:32]],
    "Datadog": ["ddapp_" + ALNUM[:34]],
    "Defined Networking": [f"dnkey-{ALNUM[:26]}-{ALNUM[:52]}"],
    "DigitalOcean": [f"do{one}_v1_{HEX[:64]}" for one in "opr"],
    "Docker Hub": ["dckr_pat_" + ALNUM[:27], "dckr_oat_" + ALNUM[:32]],
    "Doppler": ["dp.pt." + ALNUM[:43], "dp.st.dev." + ALNUM[:43]],
    "Dropbox": ["sl." + ALNUM[:135]],
    "Duffel": ["duffel_live_" + ALNUM[:43]],
    "Dynatrace": [f"dt0c01.{UPPER[:24]}.{(UPPER * 2)[:64]}"],
    "EasyPost": ["EZAK" + ALNUM[:54], "EZTK" + ALNUM[:54]],
    "Facebook": ["EAAC" + ALNUM[:120]],
    "Figma": ["figd_" + ALNUM[:40]],
    "Flutterwave": [f"FLWSECK_TEST-{HEX[:32]}-X"],
    "Fly.io": ["fo1_" + ALNUM[:43], "fm2_" + ALNUM[:120]],
    "Frame.io": ["fio-u-" + ALNUM[:64]],
    "GitHub": [f"gh{one}_{ALNUM[:36]}" for one in "oprsu"] + [f"github_pat_11{ALNUM[:80]}"],
    "GitLab": [
        f"gl{one}-{ALNUM[:20]}"
        for one in (
            *("pat", "dt", "ft", "soat", "rt", "rtr", "cbt", "ptt", "imt", "agent", "oas", "wt"),
            "ffct",
        )
    ]
    + [f"glpat-{ALNUM[:27]}.01.0z1abcde", "GR1348941" + ALNUM[:20]],
    "Google": ["AIza" + ALNUM[:35], "GOCSPX-" + ALNUM[:28], "ya29." + ALNUM[:60]],
    "Grafana": [f"glsa_{ALNUM[:32]}_{HEX[:8]}", "glc_" + ALNUM[:60], "eyJrIjoi" + ALNUM[:80]],
    "Groq": ["gsk_" + ALNUM[:52]],
    "Harness": [f"pat.{ALNUM[:22]}.{HEX[:24]}.{ALNUM[:20]}"],
    "HashiCorp (Terraform, Vault)": [
        f"{ALNUM[:14]}.atlasv1.{ALNUM[:64]}",
        "hvs." + ALNUM[:95],
        "hvb." + ALNUM[:150],
    ],
    "Heroku": ["HRKU-AA" + ALNUM[:58], f"HRKU-{UUID}"],
    "Honeycomb": [
        f"hc{region}{kind}_{LOWER[:58]}" for region in "axb" for kind in ("ik", "ic", "lk")
    ]
    + [f"hcxmk_{LOWER[:26]}:{ALNUM[:32]}"],
    "HubSpot": [f"pat-na1-{UUID}"],
    "Hugging Face": ["hf_" + ALNUM[:34], "api_org_" + ALNUM[:34]],
    "Infracost": ["ico-" + ALNUM[:32]],
    "Intra42": ["s-s4t2ud-" + HEX[:64]],
    "LaunchDarkly": [f"sdk-{UUID}"],
    "Linear": ["lin_api_" + ALNUM[:40]],
    "GoCardless, Lob": ["live_" + HEX[:35], "live_" + LOWER[:40], "test_pub_" + HEX[:31]],
    "Mailchimp": [HEX[:32] + "-us12"],
    "Mapbox": [f"sk.eyJ{ALNUM[:60]}.{ALNUM[:22]}"],
    "MaxMind": [f"{ALNUM[:6]}_{ALNUM[:29]}_mmk"],
    "Netlify": ["nfp_" + ALNUM[:36]],
    "New Relic": ["NRAK-" + UPPER[:27], "NRII-" + ALNUM[:32], HEX[:36] + "NRAL"],
    "Notion": ["ntn_" + ALNUM[:46], "secret_" + ALNUM[:43]],
    "npm": ["npm_" + ALNUM[:36]],
    "NuGet": ["oy2" + LOWER[:43]],
    "Octopus Deploy": ["API-" + UPPER[:26]],
    "OpenAI, OpenRouter": [
        f"sk-proj-{ALNUM[:74]}T3BlbkFJ{ALNUM[:74]}",
        f"sk-{ALNUM[:20]}T3BlbkFJ{ALNUM[:20]}",
    ],
    "OpenShift": ["sha256~" + ALNUM[:43]],
    "Perplexity": ["pplx-" + ALNUM[:48]],
    "Pinecone": ["pcsk_" + ALNUM[:60]],
    "Plaid": [f"access-production-{UUID}"],
    "PlanetScale": [f"pscale_{one}_{ALNUM[:43]}" for one in ("tkn", "pw", "oauth")],
    "PostHog": ["phx_" + ALNUM[:43]],
    "Postman": [f"PMAK-{HEX[:24]}-{HEX[:34]}"],
    "Prefect": ["pnu_" + ALNUM[:36]],
    "Pulumi": ["pul-" + HEX[:40]],
    "PyPI": ["pypi-AgEIcHlwaS5vcmc" + ALNUM[:120]],
    "ReadMe": ["rdme_" + LOWER[:70]],
    "Replicate": ["r8_" + ALNUM[:37]],
    "RubyGems": ["rubygems_" + HEX[:48]],
    "Scalingo": ["tk-us-" + ALNUM[:48]],
    "SendGrid": [f"SG.{ALNUM[:22]}.{ALNUM[:43]}"],
    "Sentry": [f"sntrys_eyJ{ALNUM[:120]}_{ALNUM[:43]}", "sntryu_" + HEX[:64]],
    "Settlemint": ["sm_pat_" + ALNUM[:16]],
    "Shippo": ["shippo_live_" + HEX[:40]],
    "Shopify": [f"shp{one}_{HEX[:32]}" for one in ("at", "ca", "pa", "ss")],
    "Slack": [
        "xoxb-123456789012-123456789012-" + ALNUM[:24],
        "xoxe.xoxp-1-" + ALNUM[:163],
        "xapp-1-A0123-456-" + HEX[:64],
    ],
    "Snyk": ["snyk_uat." + ALNUM[:40]],
    "SonarQube": ["squ_" + HEX[:40]],
    "Sourcegraph": [f"sgp_{HEX[:16]}_{HEX[:40]}"],
    "Square": ["sq0atp-" + ALNUM[:22], "EAAA" + ALNUM[:60], "EAAA" + ALNUM[:22]],
    "Stripe": ["sk_live_" + ALNUM[:24], "rk_test_" + ALNUM[:24], "whsec_" + ALNUM[:32]],
    "Supabase": ["sbp_" + HEX[:40]],
    "Tailscale": ["tskey-auth-" + ALNUM[:40]],
    "Telegram": ["123456789:AA" + ALNUM[:33], "12345:A" + ALNUM[:34]],
    "Twilio": ["SK" + HEX[:32]],
    "Typeform": ["tfp_" + ALNUM[:59]],
    "xAI": ["xai-" + ALNUM[:80]],
    "X (Twitter)": ["A" * 22 + "B" + ALNUM[:85], "A" * 21 + "C%2F" + ALNUM[1:81]],
    "Yandex": ["AQVN" + ALNUM[:36], f"t1.{ALNUM[:20]}.{ALNUM[:86]}", "YC" + ALNUM[:38]],
}
# Where they stand tells; the second of each is what is left.
IN_PLACE = {
    "`Authorization` headers": [
        ("Authorization: Bearer abc.def", f"Authorization:{MASK}"),
        ("Proxy-Authorization: Basic dTpw", f"Proxy-Authorization:{MASK}"),
        ("Authorization=Basic%20dTpw", f"Authorization={MASK}"),
        ('{"authorization": "token abc"}', f'{{"authorization": "{MASK}"}}'),
    ],
    "JSON web tokens": [(f"id_{JWT}", f"id_{MASK}")],
    "bearer tokens": [("call bearer " + HEX[:20], f"call bearer {MASK}")],
    "passwords in URLs": [
        ("git clone https://me:pa55@github.com/a", f"git clone https://{MASK}@github.com/a"),
        ("https://t0ken@github.com/a/b", f"https://{MASK}@github.com/a/b"),
        ("postgres://u:p@ss:w/rd@db:5432/x", f"postgres://{MASK}@db:5432/x"),
        ("redis://:p/w@cache/0", f"redis://{MASK}@cache/0"),
        ("amqp://u:p#?w@mq", f"amqp://{MASK}@mq"),
        ("a=https://u:p@x,https://v:q@y/z", f"a=https://{MASK}@x,https://{MASK}@y/z"),
    ],
    "AWS secrets": [
        ("AWS_SECRET_ACCESS_KEY=" + "aB3/" * 10, f"AWS_SECRET_ACCESS_KEY{MASK}"),
    ],
    "GitLab": [("_gitlab_session=" + LOWER[:32], f"_gitlab_session={MASK}")],
    "Mailgun": [
        (f"mailgun key-{HEX[:32]}", f"mailgun {MASK}"),
        (f"MAILGUN: {HEX[:32]}-{HEX[:8]}-{HEX[8:16]}", f"MAILGUN: {MASK}"),
    ],
    "NuGet": [
        (
            '<add key="ClearTextPassword" value="hal 9ooo" />',
            f'<add key="ClearTextPassword" value="{MASK}" />',
        )
    ],
    "Sidekiq": [
        (
            "BUNDLE_GEMS__CONTRIBSYS__COM=0a1b2c3d:4e5f6789",
            f"BUNDLE_GEMS__CONTRIBSYS__COM={MASK}",
        )
    ],
    "Discord": [
        (
            "https://discord.com/api/webhooks/123456789012345678/" + ALNUM[:68],
            f"https://discord.com/api/webhooks/{MASK}",
        )
    ],
    "Microsoft Teams": [
        (
            f"https://acme.webhook.office.com/webhookb2/{UUID}@{UUID}/IncomingWebhook/{HEX[:32]}",
            f"https://acme.webhook.office.com/webhookb2/{MASK}",
        )
    ],
    "`curl -u user:password`": [
        ("curl -u me:pa55 https://x", f"curl -u me:{MASK} https://x"),
    ],
    "`docker login -p`, `sshpass -p`": [
        ("docker login -u me -p pa55 r.io", f"docker login -u me -p {MASK} r.io"),
        ("sshpass -p pa55 ssh x", f"sshpass -p {MASK} ssh x"),
    ],
    "`--password=…`, `TOKEN=…` and the like": [
        ("run --password=hunter2 -v", f"run --password={MASK} -v"),
        ("run --password 'hunt er' -v", f"run --password '{MASK}' -v"),
        ("run --api-token abc12345", f"run --api-token {MASK}"),
        ("export DB_PASSWORD=postgres", f"export DB_PASSWORD={MASK}"),
        ("X_TOKEN='ab1 cd2ef' make", f"X_TOKEN='{MASK}' make"),
        ('{"password": "a b"}', f'{{"password": "{MASK}"}}'),
        ("?access_token=abc12345&x=1", f"?access_token={MASK}&x=1"),
        ("curl -H 'X-Honeycomb-Team: abc12345'", f"curl -H 'X-Honeycomb-Team: {MASK}'"),
        ("npm set //r.io/:_authToken=abc12345", f"npm set //r.io/:_authToken={MASK}"),
    ],
}
# Of every CI's logs and commands.
ORDINARY = [
    f"git checkout {HEX[:40]}",
    f"build {UUID}",
    f"docker pull r.io/acme/web@sha256:{HEX[:64]}",
    f"registry.example.com/acme/web:{HEX[:12]}",
    "echo eyJmb28iOiJiYXIifQ== | base64 -d",
    "echo aGVsbG8gd29ybGQhIGhlbGxvIHdvcmxkISBoZWxsbyB3b3JsZCE= | base64 -d",
    "sha512-" + "aB3dE5gH7jK9mN1p" * 5 + "Zg==",
    "/var/lib/buildkite-agent/builds/host-1-1/acme/web/node_modules/.bin/jest",
    "git clone git@github.com:acme/web.git",
    "git clone ssh://git@github.com/acme/web.git",
    "curl https://example.com/a@b?c=d",
    "npm i https://registry.npmjs.org:443/@acme/web http://localhost:4873/@acme/web",
    "git clone https://$TOKEN@github.com/a https://x:${TOKEN}@github.com/b",
    'curl -H "Authorization: Bearer $TOKEN" -H "Authorization: token ${T}"',
    "make test # see bk_pipeline",
    "TOKEN=$TOKEN PASSWORD=$(vault read -field=x y) SECRET=${S} K=`cat k`",
    "docker build --secret id=npmrc,src=/run/secrets/npmrc --token-file=/run/x/token1",
    "docker login -u me --password-stdin; docker run -u 1000:1000 -p 8080:80 web",
    "TOKENIZERS_PARALLELISM=false CACHE_KEY=v1-deps-4f2c1a9 MAX_TOKENS=4096 PWD=/workdir",
    "Fix the token parser: tokens=3, password is reset, secret handling (see API-1234)",
    "kubectl create secret generic app --from-file=./secret1.yaml",
    "gh-pages ghp gl-layers pypi-publish-the-package-to-the-production-index-now sk-learn",
    "s.replace pat.match hvac.io key-" + HEX[:32],
    "2026-11-20T10:00:00.123Z 127.0.0.1:5432 v1.22.333-alpha.4+build.5",
    "xoxo, the team; Basic auth, Bearer authentication, -----BEGIN CERTIFICATE-----",
]


def test_every_family_has_samples():
    assert {one.name for one in FAMILIES} == {*SAMPLES, *IN_PLACE}


@pytest.mark.parametrize(
    ("name", "secret"), [(name, one) for name, some in SAMPLES.items() for one in some]
)
def test_secrets_of_each_family_are_masked_entirely(name, secret):
    for before, after in (("deploy --to ", " --verbose"), ("x='", "'"), ("(", ")"), ("", "")):
        assert mask_secrets(before + secret + after) == before + MASK + after, name


@pytest.mark.parametrize(("text", "left"), [pair for pairs in IN_PLACE.values() for pair in pairs])
def test_credentials_are_masked_in_their_context(text, left):
    assert mask_secrets(text) == left


def test_every_masked_text_matches_the_arrow_expression():
    texts = [one for some in SAMPLES.values() for one in some]
    texts += [text for pairs in IN_PLACE.values() for text, _ in pairs]
    found = pc.match_substring_regex(pa.array(texts), SUSPICIOUS).to_pylist()
    assert [text for text, hit in zip(texts, found, strict=True) if not hit] == []


@pytest.mark.parametrize(
    "family", [one for one in FAMILIES if one.name in SAMPLES], ids=lambda one: one.name
)
def test_the_documentation_shows_how_each_sample_is_recognized(family):
    parts = [[part for part in one.split("…") if part] for one in family.marks]
    for secret in SAMPLES[family.name]:
        assert any(all(part.lower() in secret.lower() for part in some) for some in parts), secret


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_ci_text_is_kept(text):
    assert mask_secrets(text) == text


HOSTILE = [
    *("eyJ", "-eyJ", "://a:", "@", "://", "https://a:b@", "--token=", "password=", "password='"),
    *('token="', "-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "authorization:", "bearer ", "a."),
    *("ghp_", "glpat-", "sk-", "xox", "_", "-", " ", "docker login ", "curl -u a:", "x-amz-", "Q~"),
    *("discord.com/api/webhooks/", "aws_secret_access_key", "hooks.slack.com/services/", "SG.a."),
    *("--password-", "x-token-", "sshpass -p ", '{"password": "', "PuTTY-User-Key-File-", "s4t2"),
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_masking_takes_linear_time(piece):
    """A MiB takes about sixteen times as long as a sixteenth, never its square."""

    def seconds(size: int) -> float:
        text = (piece * (size // len(piece) + 1))[:size]
        began = time.process_time()
        mask_secrets(text)
        return time.process_time() - began

    small = max(min(seconds(65_536) for _ in range(2)), 0.005)
    assert seconds(1_048_576) < 16 * small * 4, piece


def test_marks_and_patterns_compile():
    for one in FAMILIES:
        re.compile(one.mark)
        assert one.pattern or one.masked
