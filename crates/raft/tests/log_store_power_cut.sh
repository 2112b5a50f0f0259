#!/bin/sh
# Cuts the power of a disk that a log is being written to, and checks that all that was acknowledged is there.
#
# A process that is killed leaves its writes in the kernel's memory, from where they reach the disk. A power cut does not. So the log
# is written on a file system in an image file; the image is copied while the writer is stopped between two
# instructions, which takes from the file system all that it has not written yet; and the copy is mounted as a machine would after the cut.
#
# Needs Linux, root, and 600 MB in TMPDIR. Usage: crates/raft/tests/log_store_power_cut.sh [rounds]
set -eu

rounds=${1:-6}
cd "$(dirname "$0")/../../.."
test_binary=$(cargo test -p brama-raft --lib --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))/\1/p')
work=$(mktemp -d)
mkdir "$work/disk" "$work/after"
writer=
clean_up() {
    [ -z "$writer" ] || kill -9 "$writer" 2>/dev/null || true
    umount "$work/disk" 2>/dev/null || true
    umount "$work/after" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT

truncate -s 512M "$work/image"
mkfs.ext4 -q "$work/image"

round=1
while [ "$round" -le "$rounds" ]; do
    mount -o loop "$work/image" "$work/disk"
    : > "$work/told"
    BRAMA_TEST_CRASH_FOLDER=$work/disk/log BRAMA_TEST_CRASH_SEED=$round \
        "$test_binary" log_store::tests::crash::child --exact --nocapture > "$work/told" 2> "$work/errors" &
    writer=$!
    # Half a second to some five seconds.
    sleep "$(awk -v seed="$round$$" 'BEGIN { srand(seed); print 0.5 + 4 * rand() }')"
    kill -STOP "$writer"
    # What was told before this copy was acknowledged before the cut.
    cp "$work/told" "$work/told.cut"
    cp --sparse=always "$work/image" "$work/image.cut"
    kill -9 "$writer"
    wait "$writer" 2>/dev/null || true
    writer=
    umount "$work/disk"

    mv "$work/image.cut" "$work/image"
    mount -o loop "$work/image" "$work/after"
    printf 'round %s: ' "$round"
    BRAMA_TEST_CRASH_FOLDER=$work/after/log BRAMA_TEST_CRASH_TOLD=$work/told.cut \
        "$test_binary" log_store::tests::crash::checker --exact --nocapture > "$work/checked" 2>&1 || {
        cat "$work/checked"
        exit 1
    }
    grep '^checked' "$work/checked"
    umount "$work/after"
    round=$((round + 1))
done
echo "all that was acknowledged survived $rounds power cuts"
