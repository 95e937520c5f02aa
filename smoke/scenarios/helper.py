"""The root helper, installed: whom it serves, and what it survives."""

from __future__ import annotations

from smoke.world import World

HELPER = "/run/banger-root/helper.sock"
DAEMON = "/run/banger/bangerd.sock"
_CALL = ["/usr/bin/python3", "/usr/local/lib/smoke/call.py", "hello", "{}"]
_CURL = ["curl", "-sS", "--max-time", "10", "--unix-socket", DAEMON, "http://banger/v1/version"]


def helper_refuses_strangers(world: World) -> None:
    """Another local user is refused at both sockets, also where file modes would let him in."""
    host = world.host
    assert world.ask("hello")["protocol"] == 1
    for command in (_CALL, _CURL):
        refused = host.run(command, user="stranger", check=False)
        assert refused.status != 0
        assert refused.stdout == b""

    host.sh(f"chmod 777 /run/banger-root {HELPER} /run/banger {DAEMON}")
    try:
        for command in (_CALL, _CURL):
            opened = host.run(command, user="stranger", check=False)
            assert b"version" not in opened.stdout, opened
            assert b"protocol" not in opened.stdout, opened

        host.run(_CURL, user="dev")
    finally:
        host.sh(
            f"chmod 711 /run/banger-root && chmod 700 /run/banger && chmod 600 {HELPER} {DAEMON}"
        )

    journal = host.sh("journalctl --unit bangerd-root --output cat --since -2min")
    assert '"outcome": "unauthorized"' in journal


def helper_survives_10000_hostile_requests(world: World) -> None:
    """10,000 random requests touch nothing outside, and the same helper still serves."""
    host = world.host
    host.sh(
        """
        mkdir /srv/canary && echo secret >/srv/canary/secret && mkdir /srv/canary/empty
        ln -s /srv/canary /var/lib/banger/link
        install -d -o dev /var/lib/banger/bait
        ln -s /srv/canary /var/lib/banger/bait/link
        ln -s /srv/canary/secret /var/lib/banger/bait/name
        ln /srv/canary/secret /var/lib/banger/bait/hard-secret
        """
    )
    outside = "find /srv/canary /etc /usr/local /boot -printf '%p %y %m %u %g %n %s %T@ %l\\n'"
    before, pid = host.sh(outside), world.unit_pid("bangerd-root")
    answers = world.inside("hostile.py", "10000", timeout=3000)
    try:
        assert set(answers) >= {"ok", "refused", "bad_request"}
        assert "internal" not in answers, answers
        assert sum(answers.values()) == 10_000
        assert world.unit_pid("bangerd-root") == pid
        assert world.ask("hello")["protocol"] == 1
        assert host.sh(outside) == before
    finally:
        host.sh("rm -r /srv/canary /var/lib/banger/bait /var/lib/banger/link")
        # The owner may have had the bridge removed: the daemon makes it again when it starts.
        world.restart_services()


def helper_refuses_what_is_not_bangers(world: World) -> None:
    """Interfaces, devices, processes and files of others are refused by name and by mark."""
    others: tuple[tuple[str, dict[str, object]], ...] = (
        ("remove_bridge", {"bridge": "eth0"}),
        ("delete_taps", {"taps": ["eth0"]}),
        ("remove_snapshot", {"name": "../vda"}),
        ("grant_socket", {"path": "/run/systemd/notify"}),
        ("remove_jail", {"jail": "../../etc"}),
        ("find_process", {"jail": "../v1"}),
    )
    for operation, arguments in others:
        world.refused(operation, **arguments)

    init = {"pid": 1, "start_time": 1}
    sent = world.ask("signal_process", jail="v1", process=init, signal="KILL")
    assert sent == {"delivered": False}

    world.host.sh("ip link add tap-fc-alien type dummy && ip link add br-fc-alien type bridge")
    try:
        world.refused("delete_taps", taps=["tap-fc-alien"])
        world.refused("remove_bridge", bridge="br-fc-alien")
    finally:
        world.host.sh("ip link del tap-fc-alien; ip link del br-fc-alien")
