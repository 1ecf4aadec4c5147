#!/usr/bin/env bash
# What the launch scripts share: their options and settings, running or printing a
# command, and ending in order.  They source it; it does nothing by itself.

# macOS has bash 3.2, which could not even read some of what follows.
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
    echo "error: bash 4.4 or newer is needed, and this is $BASH_VERSION: install one (on" \
        "macOS: brew install bash) and start the script with it." >&2
    exit 1
fi

# The scripts' own output; a dry run prints commands there even inside $(...).
exec 3>&1

# say WORD...: a line on stderr; if nobody is there to read it, the script goes on.
say() {
    printf '%s\n' "$*" >&2 2>/dev/null || true
}

fail() {
    say "error: $*"
    exit 1
}

# options SCRIPT [--help] [--dry-run] ARGUMENT...: sets `dry` and the list `arguments`.
dry=
options() {
    local script=$1
    shift
    while (($#)); do
        case $1 in
        --help | -h)
            # The comment at the head of the script.
            awk 'NR > 1 { if (!/^#( |$)/) exit; sub(/^# ?/, ""); print }' "$script"
            exit 0
            ;;
        --dry-run) dry=1 ;;
        *) break ;;
        esac
        shift
    done
    # shellcheck disable=SC2034 # for the script
    arguments=("$@")
}

# quoted WORD...: the words as any shell reads them back.
quoted() {
    local word text=
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
            text+=" $word"
        else
            text+=" '${word//\'/\'\\\'\'}'"
        fi
    done
    printf '%s' "${text# }"
}

# run COMMAND...: runs a command; a dry run prints it.
run() {
    if [[ $dry ]]; then
        printf '%s\n' "$(quoted "$@")" >&3
    else
        "$@"
    fi
}

# chip_hours CHIPS SECONDS: rounded up.
chip_hours() {
    echo $((($1 * $2 + 3599) / 3600))
}

# seconds_of 90m: a duration of one unit, s, m, h or d, in seconds.
seconds_of() {
    [[ $1 =~ ^([1-9][0-9]{0,5})([smhd])$ ]] ||
        fail "$1 is not a duration: write a number and s, m, h or d, such as 4h."
    case ${BASH_REMATCH[2]} in
    s) echo "${BASH_REMATCH[1]}" ;;
    m) echo $((BASH_REMATCH[1] * 60)) ;;
    h) echo $((BASH_REMATCH[1] * 3600)) ;;
    d) echo $((BASH_REMATCH[1] * 86400)) ;;
    esac
}

# number_of NAME VALUE: prints the value of a setting that must be a whole number.
number_of() {
    [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || fail "$1=$2 is not a whole number."
    echo "$2"
}

# needs PROGRAM...: fails unless the programs are there; a dry run needs none.
needs() {
    local program
    [[ ! $dry ]] || return 0
    for program in "$@"; do
        command -v "$program" >/dev/null || fail "$program is not installed here, or not on" \
            "the PATH: install it and set it up, or look at what would be run with --dry-run."
    done
}

# check_training [bucket]: fails unless `arguments` are flags of the training that name a
# configuration and a workdir; with `bucket`, one that outlives the machines.
check_training() {
    local word config='' workdir=''
    for word in ${arguments[0]+"${arguments[@]}"}; do
        case $word in
        --config=?*) config=$word ;;
        --workdir=?*) workdir=$word ;;
        --config.?*) ;;
        *)
            fail "\`$word\` is neither an option of this script, which come first (--dry-run," \
                "--help), nor a flag of the training (--config=FILE, --workdir=FOLDER," \
                "--config.key=value)."
            ;;
        esac
    done
    [[ $config ]] || fail "the flag --config=FILE is missing, such as" \
        "--config=configs/student_x2.py."
    [[ $workdir ]] || fail "the flag --workdir=FOLDER is missing, where the run is kept."
    [[ ! ${1:-} || $workdir == --workdir=gs://?* ]] || fail "$workdir would be deleted with the" \
        "machines, and the run with it: give --workdir=gs://BUCKET/PATH."
}

# end_with FUNCTION: calls it when the script ends, by a signal or a closed terminal too.
end_with() {
    # shellcheck disable=SC2064 # the function's name is known now
    trap "$1" EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 141' PIPE
    trap 'exit 143' TERM
}

# deafen: for that function, which a second Ctrl-C must not keep from its work.
deafen() {
    trap - EXIT
    trap '' HUP INT PIPE TERM
}

# checked_name NAME: fails unless clouds and Kubernetes accept the name.
checked_name() {
    [[ $1 =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
        fail "the name $1 must be at most 40 lower-case letters, digits and hyphens, and" \
            "start with a letter."
}

# is_missing TEXT: whether a tool's error says that the thing does not exist.
is_missing() {
    [[ ${1,,} == *not_found* || ${1,,} == *"not found"* || ${1,,} == *notfound* ]]
}

# is_refused TEXT: whether an error stays the same however often one asks.
is_refused() {
    [[ ${1,,} =~ quota|permission|forbidden|unauthenticated|not\ authorized|invalid ]]
}

# gone COMMAND...: runs a command that deletes; nothing to delete counts as deleted.
gone() {
    local answer
    if ! answer=$(run "$@" 2>&1) && ! is_missing "$answer"; then
        say "$answer"
        return 1
    fi
}

# streamed COMMAND...: runs a command that takes long; what it prints is kept in `log`.
log=       # a file
follower=  # the process, for `give_back`
streamed() {
    local code=0
    # In a group of its own: Ctrl-C is for the script, which `wait` lets react at once.
    set -m
    { "$@" | tee -a "$log"; } </dev/null &
    follower=$!
    set +m
    wait "$follower" || code=$?
    follower=
    return "$code"
}
