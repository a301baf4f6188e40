#!/bin/sh
# Runs nginx, and makes it read its configuration again when the name of a node leads to another address.
#
# nginx looks up the names of its upstream servers when it reads its configuration, and only then: a container that comes
# back with another address is not found. The open-source `resolve` parameter does this from nginx 1.27.3 on; upstreams by
# variable would lose keepalive, least_conn and the counting of failures. A reload cuts nobody off.
#
# A name that leads nowhere for a moment, as while its container is replaced, changes nothing: nginx would refuse a
# configuration with it, and goes on to the next node meanwhile.
#
#   follow-nodes.sh [configuration with the `server` lines]
set -eu
configuration=${1:-/etc/nginx/countersign.conf}
every=${FOLLOW_NODES_EVERY:-2}

names=$(sed -n 's/^ *server \([A-Za-z0-9.-]*\):[0-9]* .*/\1/p' "$configuration" | sort -u)
[ -n "$names" ] || { echo "follow-nodes: $configuration names no server" >&2; exit 64; }

# A line a name with its addresses; fails when a name has none.
addresses() {
    for name in $names; do
        found=$(getent ahosts "$name" | while read -r address _; do echo "$address"; done | sort -u | tr '\n' ' ')
        [ -n "$found" ] || return 1
        echo "$name $found"
    done
}

known=$(addresses) || known=
nginx -g 'daemon off;' &
server=$!
# As nginx does by itself: SIGQUIT lets requests end, SIGTERM does not.
trap 'nginx -s quit' QUIT
trap 'nginx -s stop' TERM INT

while kill -0 "$server" 2>/dev/null; do
    # In the background, so that a signal is handled at once.
    sleep "$every" &
    wait $! || true
    now=$(addresses) || continue
    if [ "$now" != "$known" ]; then
        echo "follow-nodes: addresses have changed, nginx reads its configuration again" >&2
        if nginx -s reload; then known=$now; fi
    fi
done
wait "$server"
