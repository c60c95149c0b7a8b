"""The rollout file that `liveroll example` prints: everything that can be said, explained."""

EXAMPLE = """\
# A rollout: which nodes get which kernel, in which order, and what stops it.
# Check it with `liveroll plan FILE`, begin it with `liveroll create FILE --watch`.
# Only name and target.artifact are required. Durations: 30s, 5m, 1h30m, 250ms.

name: kernel-6.19.3           # unique; small letters, digits, dots and dashes

target:
  artifact: linux-6.19.3      # by name or digest; `liveroll artifact build` makes one
  # command_line:             # each node keeps its own, but for:
  #   remove: [quiet, loglevel=]
  #   append: [loglevel=4]

selection:
  selector: pool=prod         # key=value, key!=value, key in (a,b), key notin (a,b), key, !key
  # nodes: [node-1, node-2]   # only these of them
  # exclude: [node-7]

canary:                       # one node for every pair of kernels and hardware model goes first
  max_nodes: 4
  # nodes: [node-3]           # preferred canaries

waves:                        # after the canary; the last takes what is left
  - name: early
    size: 10%
  - name: rest
    # selector: zone=b        # narrows a wave

promotion: automatic          # or manual_canary (a person approves once), or manual (every wave)
late_nodes: ignore            # or last_wave: nodes enrolled later join the last wave

budgets:                      # counts, or percentages of the members (rounded down, at least 1)
  max_unavailable: 10%
  max_in_blackout: 2          # workloads of so many nodes may stand still at once
  max_uncommitted: 50%        # updated, still baking
  domain:                     # of each zone at most
    key: zone
    max_unavailable: 1
  failures:
    max: 2                    # one more halts the rollout
    halt_on: [lost, state_lost]   # at once, whatever max says

gates:                        # judged when a wave has baked; only a pass promotes
  - blackout:
      quantile: 0.99
      max: 2s
      hard_max: 5s            # no single one may exceed it
      min_samples: 1
    on_fail: halt             # or roll_back, or hold
  - health:
      min_healthy_percent: 95%
    on_fail: halt

bake:                         # healthy for so long before it counts
  node: 1m
  wave: 2m
health_hold: 10s              # probes must hold so long right after the update

rollback:                     # budgets of a rollback, should there be one
  max_unavailable: 10%
  max_in_blackout: 2
  # none: true                # no way back is asked of the nodes

retries:                      # by what the error asks for; attempts count the first
  call: {attempts: 3, backoff: 5s, max_backoff: 2m}
  replan: {attempts: 2, backoff: 30s, max_backoff: 10m}

# schedule:                   # when nodes may start; without it, always
#   windows:
#     - {days: [mon, tue, wed, thu], start: "22:00", end: "04:00", time_zone: Europe/Berlin}
#   embargoes:
#     - {start: "2026-12-20T00:00:00Z", end: "2027-01-04T00:00:00Z", reason: holidays}

# timeouts:                   # of each step on a node
#   draining: 10m
#   preserving: 2m
# silence_lease: 5m           # silent for longer in its blackout: the node is lost
# proceed_lease: 30s
# acknowledge_timeout: 1m
"""
