# shellcheck shell=bash
# A Debian system with the interpreters that are not on this machine, in a folder. It is made once,
# as root, by debootstrap. `.ci/run` sources this; it says which versions (`debian_versions`,
# `debian_later`) and where caches are (`cache`).

debian=$cache/debian

# Makes the system unless it is there. Where it cannot be had, `why` says why.
have_debian() {
    local packages=gcc,libc6-dev,make,openssl,ca-certificates version complete=yes
    for version in "${debian_versions[@]}" "${debian_later[@]}"; do
        packages+=,python$version,python$version-dev,python$version-venv,libpython$version-testsuite
        [ -e "$debian/usr/lib/python$version/test/test_asyncio" ] || complete=no
    done
    [ -e "$debian/.complete" ] && [ "$complete" = yes ] && return
    [ "$(id -u)" = 0 ] || { why="only root can make the Debian system that has it"; return 1; }
    command -v debootstrap >/dev/null || { apt-get update && apt-get install --yes debootstrap; } >/dev/null 2>&1 \
        || { why="debootstrap is not installed (apt install debootstrap)"; return 1; }
    unshare --mount true 2>/dev/null || { why="this machine allows no mount namespaces"; return 1; }
    say "making a Debian system in $debian (once; takes minutes)"
    rm -rf "$debian"
    mkdir -p "$cache"
    timeout 1800 debootstrap --variant=minbase --include="$packages" sid "$debian" >"$cache/debootstrap.log" 2>&1 \
        || { why="debootstrap failed: $(tail -n 1 "$cache/debootstrap.log")"; return 1; }
    touch "$debian/.complete"
}

# Runs a command in that system, in this folder. Checkout and home are those of this machine; the
# mounts go with the command.
in_debian() {
    # shellcheck disable=SC2016  # the inner shell expands it
    unshare --mount --propagation private bash -euc '
        root=$1; shift
        for folder in "$HOME" "$PWD" /tmp /dev /dev/shm /dev/pts /proc /sys /etc/ssl; do
            mkdir -p "$root$folder"
            mount --bind "$folder" "$root$folder"
        done
        for file in /etc/resolv.conf /etc/hosts; do
            touch "$root$file"
            mount --bind "$file" "$root$file"
        done
        exec chroot "$root" sh -c "cd \"\$0\" && exec \"\$@\"" "$PWD" "$@"
    ' in_debian "$debian" "$@"
}
