from __future__ import annotations

import socket


def test_port_in_use_is_an_error_with_advice(call):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = call("sandbox", "--port", str(port))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"bk-pipeline: Cannot listen on 127.0.0.1, port {port}: Address already in use. If another "
        "sandbox is running, stop it, or pass --port 0 for a free port.\n"
    )
