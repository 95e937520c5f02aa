"""Named scenarios; each function says in one line what it shows."""

from __future__ import annotations

from smoke.scenarios import (
    abuse,
    daily,
    disks,
    faults,
    helper,
    hostlife,
    installing,
    publishing,
    snapshots,
    vms,
)
from smoke.suite import Scenario, When

_CORE = (
    helper.helper_refuses_strangers,
    disks.root_disk_on_device_mapper,
    vms.run_exec_ssh,
    vms.daemon_restart_keeps_vms,
)
_REST = (
    helper.helper_refuses_what_is_not_bangers,
    helper.helper_survives_10000_hostile_requests,
    disks.full_disk_loses_nothing,
    daily.throw_away_run,
    daily.two_runs_at_once,
    daily.bad_input_leaves_nothing,
    daily.set_restart_kill_prune,
    daily.rates_are_bounded,
    daily.reclaimed_memory_is_the_hosts,
    vms.stop_and_start_keep_the_disks,
    vms.dns_name,
    vms.nat_only_when_asked,
    vms.neighbours_cannot_talk,
    vms.helper_restart_keeps_vms,
    vms.delete_leaves_nothing,
    vms.host_reboot,
    snapshots.snapshot_restore_keeps_contents,
    snapshots.suspend_and_start,
    snapshots.fork_has_its_own_identity,
    snapshots.template_second_run,
    hostlife.host_shutdown_loses_nothing,
    publishing.published_port_leads_to_the_guest,
    publishing.listening_host_port_is_not_taken,
    installing.a_missing_firecracker_is_said,
    installing.uninstalling_keeps_vms_and_purging_nothing,
    faults.stale_leftovers_are_cleared,
    faults.daemon_killed_at_every_step,
    faults.helper_killed_at_every_step,
    faults.vmm_killed_while_it_starts_and_stops,
    abuse.floods_hurt_nobody,
)
# These take half an hour, and hours, where processors are emulated.
_NAMED = (installing.first_run_builds_the_image, abuse.two_hundred_cycles)

SCENARIOS: tuple[Scenario, ...] = (
    *(Scenario.of(function, When.CORE) for function in _CORE),
    *(Scenario.of(function, When.ALL) for function in _REST),
    *(Scenario.of(function, When.NAMED) for function in _NAMED),
)
