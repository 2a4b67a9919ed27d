#!/bin/sh
# Check the units: systemd-analyze verify has nothing to say, and the exposure is at most 1.6.
# The program need not be installed: a stand-in takes its place in a root of its own.
set -eu
unit=$(dirname "$0")/dotproxy.service
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

stand_in=$root/dotproxy
printf '#!/bin/sh\n' >"$stand_in"
chmod 755 "$stand_in"
sed "s|/opt/dotproxy/bin/dotproxy|$stand_in|" "$unit" >"$root/dotproxy.service"
cp "$(dirname "$0")/dotproxy.socket" "$root/dotproxy.socket"
said=$(systemd-analyze verify "$root/dotproxy.service" "$root/dotproxy.socket" 2>&1 | grep -v 'man .* command' || true)
if [ -n "$said" ]; then
    echo "$said"
    exit 1
fi
echo "systemd-analyze verify: clean"
systemd-analyze security --offline=true --threshold=16 "$unit" | tail -n 1
