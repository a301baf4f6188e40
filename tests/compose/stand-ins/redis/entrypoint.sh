#!/bin/sh
# The server gives up root, as in the registry's image; other commands run as they are.
set -e
if [ "$1" = redis-server ]; then
    chown -R redis /data
    exec /usr/bin/setpriv --reuid=redis --regid=redis --clear-groups -- "$@"
fi
exec "$@"
