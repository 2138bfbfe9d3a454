# shellcheck shell=sh disable=SC2034
# Sourced by the scripts beside it: Debian packages that building and testing need.
moonlight_packages='build-essential cmake ninja-build pkg-config libpcre2-dev libjansson-dev libinih-dev libssl-dev
libutf8proc-dev libedit-dev libcmocka-dev zlib1g-dev libzstd-dev libsnappy-dev liblz4-dev libbrotli-dev
libcurl4-openssl-dev librsvg2-dev libcairo2-dev libxml2-utils libmicrohttpd-dev libsqlite3-dev libxxhash-dev
libjs-marked node-highlight.js python3'
# For the fuzz programs: without these they are skipped.
moonlight_fuzz_packages='clang libclang-rt-14-dev'
# For the slow tests: likewise.
moonlight_slow_packages='nginx-light openssl gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static'

# packages_missing NAME...: those of the packages that are not installed.
packages_missing() {
    for package in "$@"; do
        case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
        installed) ;;
        *) echo "$package" ;;
        esac
    done
}

# packages_install NAME...: install what is missing.  Touches nothing when all is there.
packages_install() {
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        echo "This is not a Debian system: what these packages hold is expected to be installed: $*" >&2
        return 0
    fi
    missing=$(packages_missing "$@" | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "error: these packages are missing: ${missing}" >&2
            echo "Run this as root, or first, as root: apt-get install $missing" >&2
            return 1
        fi
        as_root='sudo -n'
        [ ! -t 0 ] || as_root=sudo
    fi
    echo "Installing: $missing"
    # shellcheck disable=SC2086 # lists of words
    {
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 update </dev/null &&
            $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -o Acquire::Retries=3 \
                -o Dpkg::Use-Pty=0 install $missing </dev/null >/dev/null
    } || {
        echo "error: the packages could not be installed: $missing" >&2
        return 1
    }
}
