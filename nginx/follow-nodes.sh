#!/bin/sh
# Runs nginx, and makes it read its configuration again when the name of a node leads to another address.
#
# nginx looks up the names of its upstream servers when it reads its configuration, and only then: a container that comes
# back with another address is not found, and with one name that leads nowhere nginx does not even start, reload or stop.
# The open-source `resolve` parameter does this from nginx 1.27.3 on; upstreams by variable would lose keepalive, least_conn
# and the counting of failures. So nginx runs on a copy in which the names are replaced by their addresses. A reload cuts
# nobody off.
#
# A name that leads nowhere for a moment, as while its container is replaced, keeps the address that it had. A node that was
# never found is `down` until it is. nginx goes on to the next node meanwhile.
#
#   follow-nodes.sh [configuration with the `server` lines]    nginx.conf is beside it and includes it by this path
set -eu
configuration=${1:-/etc/nginx/countersign.conf}
every=${FOLLOW_NODES_EVERY:-2}
folder=$(dirname "$configuration")
# Beside the originals, so that other relative paths lead where they did.
copy=$folder/countersign.followed
main=$folder/nginx.followed

names=$(sed -n 's/^ *server \([A-Za-z0-9.-]*\):[0-9]*[ ;].*/\1/p' "$configuration" | sort -u)
[ -n "$names" ] || { echo "follow-nodes: $configuration names no server" >&2; exit 64; }
sed "s|include  *$configuration;|include $copy;|" "$folder/nginx.conf" >"$main"
grep -qF "include $copy;" "$main" || { echo "follow-nodes: $folder/nginx.conf does not include $configuration" >&2; exit 64; }

# A line for each name with its addresses: those of now, or else those that it had.
addresses() {
    for name in $names; do
        found=$(getent ahosts "$name" | while read -r address _; do echo "$address"; done | sort -u | tr '\n' ' ')
        [ -n "$found" ] || found=$(echo "$known" | sed -n "s/^$name //p")
        echo "$name $found"
    done
}

# The configuration with addresses in the places of names.
write_copy() {
    echo "$known" | awk '
        FNR == NR { name = $1; $1 = ""; addresses[name] = $0; next }
        /^ *server [A-Za-z0-9.-]+:[0-9]+[ ;]/ {
            split($2, place, /[:;]/)
            parameters = $0
            sub(/^ *server [A-Za-z0-9.-]+:[0-9]+/, "", parameters)
            count = split(addresses[place[1]], found, " ")
            for (i = 1; i <= count; i++) {
                address = found[i] ~ /:/ ? "[" found[i] "]" : found[i]
                print "    server " address ":" place[2] parameters
            }
            if (count == 0) {
                sub(/;/, " down;", parameters)
                print "    server 127.0.0.1:" place[2] parameters
            }
            next
        }
        { print }
    ' - "$configuration" >"$copy"
}

known=
known=$(addresses)
write_copy
nginx -c "$main" -g 'daemon off;' &
server=$!
# As nginx does by itself: SIGQUIT lets requests end, SIGTERM does not.
stopping=
trap 'stopping=yes; nginx -s quit -c "$main"' QUIT
trap 'stopping=yes; nginx -s stop -c "$main"' TERM INT

while [ -z "$stopping" ] && kill -0 "$server" 2>/dev/null; do
    # In the background, so that a signal is handled at once: a look-up takes long when the name service is silent.
    { sleep "$every"; addresses >"$folder/addresses.followed"; } &
    wait $! || true
    [ -z "$stopping" ] || break
    now=$(cat "$folder/addresses.followed")
    if [ "$now" != "$known" ]; then
        echo "follow-nodes: addresses have changed, nginx reads its configuration again" >&2
        known=$now
        write_copy
        nginx -s reload -c "$main" || echo "follow-nodes: nginx did not take it" >&2
    fi
done
wait "$server"
