#!/usr/bin/env bash
# The life of what is borrowed: TPU slices (tpu.sh, tpu_compute.sh), and how a run on
# Kubernetes is given back.  They source it; it does nothing by itself.

# `name`, `tries` and others are set by the scripts.
# shellcheck disable=SC2154
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Where the code lies on a host of a slice, and what is installed there.
REMOTE=hkdnet-jax
UV_VERSION=0.13.8

# A script that calls `borrow` sets
#   name    what the slice is called
#   left    seconds for which the slice may exist in all, over all attempts
#   wait    seconds to wait for capacity, each time
#   tries   how often the slice is made at most
#   poll    seconds between two looks
# and defines
#   announce   says what is going to be made, for how long, and that it is deleted
#   create     asks for the slice
#   state      prints waiting, active, lost, absent, or unknown if the cloud does not answer
#   reason     prints why the slice was lost, if the cloud says so
#   send FILE  copies a file to all hosts
#   on_first COMMAND, on_all COMMAND   runs a command on the first host, on all hosts
#   start      starts the training on all hosts, with `start_command`
#   delete     deletes all that `create` may have made; it succeeds if nothing is left

borrowed=  # whether something may exist that has to be deleted
began=     # when the slice became active, by SECONDS
seen=0     # lines of the run's log that were printed
archive=   # the packed code

# rest: seconds until the run has to be told to save, before the cloud deletes the slice.
rest() {
    echo $((left - (left > 960 ? 240 : left / 4) - SECONDS + began))
}

# limited COMMAND...: as `run`, but the command is ended when no time is left.
limited() {
    local time
    time=$(rest)
    if [[ $dry ]]; then
        run "$@"
    else
        timeout --foreground $((time > 1 ? time : 1)) "$@"
    fi
}

# install_command: what makes a host ready: Python 3.12 and the locked packages, by uv.
install_command() {
    printf '%s' "rm -rf $REMOTE && mkdir $REMOTE && tar -xzf $REMOTE.tar.gz -C $REMOTE" \
        " && cd $REMOTE && curl -LsSf https://astral.sh/uv/$UV_VERSION/install.sh | sh" \
        " && export PATH=\$HOME/.local/bin:\$PATH && uv venv --python 3.12" \
        " && uv pip install -r requirements.txt -r requirements-tpu.txt" \
        " -r requirements-gcs.txt --constraint requirements-lock.txt" \
        " && uv pip install --no-deps --editable ."
}

# start_command FLAG...: starts the training, with `arguments` and the flags, so that it
# goes on when the connection ends; its output is in run.log, then its code in run.code.
# A training that runs already is left alone, since a lost connection may hide a start.
start_command() {
    local program script
    program=$(quoted .venv/bin/python -m hkdnet_jax.main "${arguments[@]}" "$@")
    script="$program >run.log 2>&1 & echo \$! >run.pid; wait \$!; echo \$? >run.code"
    printf '%s' "cd $REMOTE && { { [ -s run.pid ] && kill -0 \$(cat run.pid); } ||" \
        " { rm -f run.code run.pid; : >run.log;" \
        " setsid nohup bash -c $(quoted "$script") </dev/null >/dev/null 2>&1 & } }"
}

# follow_command: prints the log from where it was left, then how the run ended.
follow_command() {
    printf '%s' "cd $REMOTE && until [ -s run.pid ]; do sleep 1; done;" \
        " tail -n +$((seen + 1)) -f --pid=\$(cat run.pid) run.log;" \
        " until [ -s run.code ]; do sleep 1; done; echo ended with code \$(cat run.code)"
}

# stop_command: asks the run to save and end, which it does on all hosts, and waits for
# it.  Never SIGKILL: a process that is killed may leave its TPU unusable.
stop_command() {
    printf '%s' "cd $REMOTE && if [ -s run.pid ] && [ ! -s run.code ]; then" \
        " kill -TERM \$(cat run.pid); for i in \$(seq 120); do" \
        " [ -s run.code ] && break; sleep 1; done; fi"
}

# borrow: makes the slice, trains on it, makes it again when it was lost, deletes it.
borrow() {
    local attempt
    announce
    if [[ $dry ]]; then
        rehearse
        return 0
    fi
    end_with give_back
    make_archive
    refuse_existing
    borrowed=1
    for ((attempt = 1; attempt <= tries; attempt++)); do
        if ((attempt > 1)); then
            remove || exit 1
            say "Trying again, attempt $attempt of $tries."
            # 1, 2, 4, 8 and then 16 times as long, since capacity takes time to come back.
            sleep $((poll << (attempt > 5 ? 4 : attempt - 2)))
        fi
        obtain || continue
        began=$SECONDS seen=0
        : >"$log"
        if prepare && watch; then
            return 0
        fi
        ((left -= SECONDS - began)) || true
        began=
        ((left >= 60)) || fail "the time is used up; the same command continues the run."
    done
    fail "gave up after $tries attempts to have $name; the same command continues the run."
}

# make_archive: packs the committed files for the hosts; sets `archive`.
make_archive() {
    local root file word
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    archive=${TMPDIR:-/tmp}/$name-$$.tar.gz log=${TMPDIR:-/tmp}/$name-$$.log
    for word in "${arguments[@]}"; do
        [[ ! $dry && $word == --config=* ]] || continue
        file=${word#--config=} file=${file%%:*}
        git -C "$root" cat-file -e "HEAD:$file" 2>/dev/null || fail "$file is not among the" \
            "committed files of $root, which are what the hosts get: check its name, or" \
            "commit it."
    done
    [[ $dry || -z $(git -C "$root" status --porcelain --untracked-files=no) ]] ||
        say "Warning: changes that are not committed are not sent to the slice."
    run git -C "$root" archive --format=tar.gz --output="$archive" HEAD ||
        fail "$root is not a git checkout, so its code cannot be packed: clone it."
}

# rehearse: prints the commands of a run in which nothing goes wrong.
rehearse() {
    began=0
    make_archive
    create
    state >/dev/null
    prepare
    on_first "$(follow_command)"
    delete
}

refuse_existing() {
    case $(state) in
    absent) ;;
    unknown) fail "the cloud does not answer: log in with \`gcloud auth login\`, and check" \
        "the project and the zone." ;;
    *) fail "$name exists already, and this script deletes only what it made: choose" \
        "another name, or delete it with \`$(by_hand)\`." ;;
    esac
}

# by_hand: the commands that delete the slice.
by_hand() {
    dry=1 delete 3>&1 | paste -sd ';'
}

# obtain: asks for the slice and waits for it; 1 if it was lost or could not be had.
obtain() {
    local answer now before='' unknown=0 absent=0 until
    if ! answer=$(create 2>&1); then
        say "$answer"
        if [[ ${answer,,} == *"already exists"* ]]; then
            borrowed=
            fail "something of the name $name was not made by this script, and is left as it" \
                "is, with what was made just now: choose another name, or delete all of it" \
                "with \`$(by_hand)\`."
        fi
        ! is_refused "$answer" || fail "$name cannot be made, see above: asking again would" \
            "not help."
        return 1
    fi
    until=$((SECONDS + wait))
    while true; do
        now=$(state)
        [[ $now == "$before" ]] || say "$name: $now"
        before=$now
        case $now in
        active) return 0 ;;
        # It may take a moment until a request is seen, and one that failed is deleted.
        lost | absent)
            if [[ $now == lost ]] || ((++absent >= 3)); then
                answer=$(reason)
                say "$name was not made: ${answer:-the cloud gives no reason.}"
                ! is_refused "$answer" || fail "asking again for $name would not help."
                return 1
            fi
            ;;
        unknown) ((++unknown < 10)) || fail "the cloud has not answered ten times." ;;
        *) unknown=0 ;;
        esac
        ((SECONDS < until)) || fail "no capacity for $name within $wait s: ask again later, or" \
            "in another zone."
        sleep "$poll"
    done
}

# prepare: code, packages and the run on all hosts, each with a few attempts.
prepare() {
    insist send "$archive" && insist on_all "$(install_command)" && insist start
}

# insist COMMAND...: runs a command up to five times; a new host refuses ssh at first.
insist() {
    local i
    for ((i = 1; i <= 5; i++)); do
        if "$@"; then
            return 0
        fi
        [[ $(state) == @(active|unknown) ]] || return 1
        say "\`$1\` failed, attempt $i of 5."
        sleep "$poll"
    done
    fail "the hosts of $name cannot be set up, see above."
}

# watch: prints the log until the run ends; 0 if it is complete, 1 if the slice was lost.
watch() {
    local before broken=0
    while true; do
        before=$seen
        follow
        [[ $code != 0 ]] || return 0
        (($(rest) > 0)) || fail "the time is used up; the same command continues the run."
        sleep "$poll"
        # A host that was preempted ends the run on the others, so the state decides.
        [[ $(state) == @(active|unknown) && $code != 143 ]] || {
            say "$name was lost: $(reason)"
            return 1
        }
        if [[ $code ]]; then
            say "The run ended with code $code; the last lines of every host:"
            on_all "tail -n 5 $REMOTE/run.log" >&2 || true
            fail "the training failed, see above."
        fi
        ((seen == before)) || broken=0
        ((++broken < 10)) || fail "the connection to $name was lost ten times in a row."
        say "The connection was lost, the run goes on; connecting again."
    done
}

# follow: prints new lines of the log; sets `code`, to nothing if the connection ended.
follow() {
    local last
    streamed on_first "$(follow_command)" || true
    last=$(tail -n 1 "$log")
    code=
    [[ ! $last =~ ^ended\ with\ code\ ([0-9]+)$ ]] || code=${BASH_REMATCH[1]}
    seen=$(wc -l <"$log")
}

# give_back: ends a run that is still going on, and deletes the slice.
give_back() {
    local code=$?
    deafen
    if [[ $began ]] && ((code != 0)); then
        say "Asking the run to save, for at most 150 s."
        left=$((SECONDS - began + 200)) # of which a quarter is no time to wait
        on_first "$(stop_command)" || true
    fi
    [[ -z $follower ]] || kill -- "-$follower" 2>/dev/null || true
    rm -f "$archive" "$log"
    if [[ $borrowed ]] && ! remove; then
        code=1
    fi
    exit "$code"
}

# Inside a trap a bare `return` would give the status of before the trap.
#
# remove: deletes the slice, with a few attempts; says so loudly if that fails.
remove() {
    local i
    for ((i = 1; i <= 5; i++)); do
        if delete; then
            say "$name is deleted."
            return 0
        fi
        sleep "$poll"
    done
    say "WARNING: $name could not be deleted, it may still run and be paid for, until its" \
        "own limit: delete it with \`$(by_hand)\`."
    return 1
}
