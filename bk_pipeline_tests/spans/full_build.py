"""A build in which every attribute has a value that occurs only in the attribute and its copies."""

from __future__ import annotations

API, WEB = "https://api.buildkite.com/v2/organizations/orgslug", "https://buildkite.com/orgslug"
TRIGGERED, REBUILT, TRIGGERING = (f"018f0000-1111-7222-8333-00000000bb0{n}" for n in (1, 2, 3))
FIRST, SECOND, UNBLOCKED = (f"018f0000-1111-7222-8333-00000000aa0{n}" for n in (1, 2, 3))
PERSON = {"id": "person-id", "graphql_id": "person-gid", "name": "Pat", "email": "pat@x.example"}
AGENT = {
    "id": "agent-id",
    "name": "agent-name",
    "hostname": "agent-host",
    "ip_address": "203.0.113.77",
    "version": "3.77.1",
    "web_url": f"{WEB}/agents/agent-id",
    "meta_data": ["queue=agentqueue", "hostname=tag-host", "account=000111222"],
}
TIMES = {
    "created_at": "2026-11-20T10:00:00.100Z",
    "runnable_at": "2026-11-20T10:00:01.200Z",
    "started_at": "2026-11-20T10:00:07.300Z",
    "finished_at": "2026-11-20T10:04:00.400Z",
}


def job_of(uuid: str, **more: object) -> dict[str, object]:
    return {
        "id": uuid,
        "type": "script",
        "state": "failed",
        "exit_status": 770013574,
        "graphql_id": f"gid-{uuid}",
        "web_url": f"{WEB}/pipeslug/builds/418264539#{uuid}",
        "log_url": f"{API}/pipelines/pipeslug/builds/418264539/jobs/{uuid}/log",
        "concurrency_wait_time_ms": 880054217,
        "name": "job label",
        "step_key": "step-key",
        "group_key": "group-key",
        "step": {"id": "step-id", "label": "job label"},
        "command": "make everything",
        "agent_query_rules": ["os=rules-os"],
        "agent": AGENT,
        "signal": "SIGTERM9",
        "signal_reason": "why-signalled",
        "broken_reason": "why-broken",
        "cancel_reason": "why-canceled",
        "matrix": {"outer": {"email": "matrix@x.example"}},
        "cluster_id": "cluster-id",
        "cluster_queue_id": "cluster-queue-id",
        **TIMES,
        **more,
    }


FULL = {
    "id": "018f0000-1111-7222-8333-444455556666",
    "graphql_id": "build-gid",
    "number": 418264539,
    "url": f"{API}/pipelines/pipeslug/builds/418264539",
    "web_url": f"{WEB}/pipeslug/builds/418264539",
    "state": "failed",
    "message": "the message",
    "commit": "c0ffee11",
    "branch": "the-branch",
    "source": "webhook7",
    "cancel_reason": "build-canceled",
    "creator": {
        "id": "creator-id",
        "graphql_id": "creator-gid",
        "email": "creator@x.example",
        "name": "Cre Ator",
    },
    "author": {"name": "Au Thor", "email": "author@x.example"},
    "meta_data": {"release": "r-77", "bkua_" + "0a1b2c3d" * 5: "x"},
    "pull_request": {
        "id": "515098127",
        "base": "pr-base",
        "repository": "git://pr-repository",
        "title": "pr-title",
    },
    "merge_queue": {"head": "queue-head", "base_branch": "queue-base", "base_commit": "ba5ec0de"},
    "rebuilt_from": {
        "id": REBUILT,
        "number": 399987211,
        "url": f"{API}/pipelines/p2/builds/399987211",
    },
    "triggered_from": {
        "build_id": TRIGGERING,
        "build_number": 299963418,
        "build_pipeline_slug": "other-slug",
    },
    "cluster_id": "cluster-id",
    "created_at": "2026-11-20T10:00:00.000Z",
    "scheduled_at": "2026-11-20T10:00:00.050Z",
    "started_at": "2026-11-20T10:00:07.000Z",
    "failing_at": "2026-11-20T10:03:00.000Z",
    "finished_at": "2026-11-20T10:05:00.000Z",
    "pipeline": {
        "id": "pipeline-id",
        "graphql_id": "pipeline-gid",
        "slug": "pipeslug",
        "name": "The Pipeline",
        "repository": "git@github.com:owner9/repository9.git",
        "web_url": f"{WEB}/pipeslug",
        "provider": {"id": "github"},
    },
    "jobs": [
        job_of(FIRST, retried=True, retried_in_job_id=SECOND, retry_type="manual"),
        job_of(
            SECOND,
            retry_source={"job_id": FIRST, "retry_type": "manual"},
            retried_by=PERSON,
            triggered_build={
                "id": TRIGGERED,
                "number": 699954128,
                "web_url": f"{WEB}/p3/builds/699954128",
            },
        ),
        job_of(
            UNBLOCKED,
            type="manual",
            state="unblocked",
            unblocked_by={
                "id": "other-id",
                "graphql_id": "other-gid",
                "name": "Sam",
                "email": "sam@x.example",
            },
            unblocked_at="2026-11-20T10:04:30.000Z",
        ),
    ],
}
