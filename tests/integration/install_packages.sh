#!/bin/sh
# Install what packages.txt lists and is not there yet, where that is possible; say what is missing where it
# is not.  The integration tests that need a missing program are skipped, and say so.
set -eu
here=$(dirname "$0")

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "not a Debian system: install by other means, or do without: $(tr '\n' ' ' <"$here/packages.txt")"
    exit 0
fi

missing=
while read -r package; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done <"$here/packages.txt"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root=sudo
else
    echo "not installed, and may not install (tests that need them are skipped):$missing"
    exit 0
fi

# A policy of "do not start" keeps the servers' packages from starting them; an existing one is left alone.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
    trap '$as_root rm -f "$policy"' EXIT
fi
echo "installing:$missing"
$as_root apt-get update -qq || echo "the list of packages could not be refreshed"
# shellcheck disable=SC2086  # a list of words is meant
if ! $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing </dev/null >/dev/null
then
    echo "could not be installed (tests that need them are skipped):$missing"
    exit 0
fi
# Nor are they to be started at the next boot, where they would fight for port 53.
if command -v systemctl >/dev/null 2>&1; then
    for unit in unbound named nsd stubby dnsdist kresd@1 kresd@2; do
        case "$missing" in *"${unit%%@*}"*|*bind9*|*knot-resolver*) $as_root systemctl disable --quiet "$unit" 2>/dev/null || true ;; esac
    done
fi
