#!/usr/bin/env bash
# Measures relora on this machine's NVIDIA GPU, from the folder that `just gpu-bundle` has made. Needs x86-64 Linux, NVIDIA's
# driver and NVRTC (of the CUDA toolkit, of the package cuda-nvrtc, or of PyTorch); no Rust, no network. Where Python has
# PyTorch and transformers, they are measured in turn with it.
#
#   ./run.sh [--sizes 60m,130m,250m,350m] [--rounds 3] [--steps 20] [--soak 2000] [--most-tokens 131072] [--python PYTHON]
#            [--device cuda:0] [--parts golden,speed,suite,soak] [--out results]
#
# It leaves, in results/: results.md (the tables), results.jsonl (every figure, a line each), and what each part has said.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# Numbers are written with a point, and sorted so.
export LC_ALL=C
sizes=60m,130m,250m,350m methods=full,lora,relora rounds=3 steps=20 soak=2000 most_tokens=131072
python=python3 device=cuda:0 parts=golden,speed,suite,soak out=$here/results
while [[ $# -gt 0 ]]; do
    case $1 in
        --sizes | --methods | --rounds | --steps | --soak | --most-tokens | --python | --device | --parts | --out)
            [[ $# -gt 1 ]] || { echo "error: $1 needs a value" >&2; exit 2; }
            name=${1#--}
            printf -v "${name//-/_}" %s "$2"
            shift 2
            ;;
        *)
            echo "error: unknown option $1" >&2
            sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
            exit 2
            ;;
    esac
done
for part in ${parts//,/ }; do
    case $part in
        golden | speed | suite | soak) ;;
        *) echo "error: --parts $part: is none of golden, speed, suite, soak" >&2; exit 2 ;;
    esac
done
[[ $device != cuda ]] || device=cuda:0
[[ ! -e $out ]] || { echo "error: $out is there already; name another folder with --out" >&2; exit 2; }
mkdir -p "$out/logs" || exit 1
out=$(cd "$out" && pwd)
jsonl=$out/results.jsonl markdown=$out/results.md
: >"$jsonl"
failed=()

say() { printf '\n==> %s\n' "$*"; }
wanted() { [[ ,$parts, == *,$1,* ]]; }

# ---- what the bundle brings, unpacked ----
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for program in relora golden; do
    gzip -dc "$here/bin/$program.gz" >"$work/$program" && chmod +x "$work/$program" || exit 1
done
mkdir "$work/headers"
tar -C "$work/headers" -xzf "$here/cuda.tar.gz" && tar -C "$work" -xzf "$here/text.tar.gz" || exit 1
relora=$work/relora
# Compiled kernels and prepared text are kept for this script's own processes and forgotten after it.
export RELORA_KERNEL_CACHE=$work/kernels XDG_CACHE_HOME=$work/cache

# ---- NVRTC, and the headers that kernels include ----
library=
for folder in ${LD_LIBRARY_PATH:+${LD_LIBRARY_PATH//:/ }} "${CUDA_PATH:-/nowhere}/lib64" "${CUDA_PATH:-/nowhere}/lib" /usr/local/cuda/lib64 \
    /usr/lib/x86_64-linux-gnu /usr/lib64 $("$python" -c 'import site, sys
for root in [*site.getsitepackages(), site.getusersitepackages(), *sys.path]:
    for part in ("cuda_nvrtc", "cu13"):
        print(f"{root}/nvidia/{part}/lib")' 2>/dev/null); do
    for file in "$folder"/libnvrtc.so "$folder"/libnvrtc.so.1[0-9]; do
        if [[ -e $file ]]; then library=$file; break 2; fi
    done
done
if [[ -n $library ]]; then
    mkdir "$work/lib" && ln -s "$library" "$work/lib/libnvrtc.so"
    export LD_LIBRARY_PATH=$work/lib:$(dirname "$library")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
for root in "${CUDA_PATH:-/nowhere}" /usr/local/cuda "$work/headers"; do
    if [[ -e $root/include/cuda_runtime.h && -e $root/include/crt/mma.h ]]; then export CUDA_PATH=$root; break; fi
done

# ---- records and tables ----
# A JSON object of several lines as one, with something before its first key.
record() { # FILE PREFIX
    local flat
    flat=$(tr -s '\n ' ' ' <"$1")
    flat=${flat#\{}
    printf '{%s, %s\n' "$2" "${flat# }" >>"$jsonl"
}
# A number in such a line, by its key; of a spread the median.
number() { sed -n "s/.*\"$1\": \({ \"median\": \)\{0,1\}\(-\{0,1\}[0-9][0-9.e+-]*\).*/\2/p"; }
median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
# The median of a number over the records that have all the given texts in them.
over() { # KEY TEXT...
    local key=$1 text lines
    lines=$(cat "$jsonl")
    shift
    for text in "$@"; do lines=$(grep -F -- "$text" <<<"$lines"); done
    number "$key" <<<"$lines" | median
}
# The peak of memory: the allocator's where it is known, else the driver's.
peak() { # TEXT...
    local bytes
    bytes=$(over peak_memory_bytes "$@")
    echo "${bytes:-$(over driver_peak_memory_bytes "$@")}"
}
# awk's arithmetic over numbers that may be missing: then a dash.
calculated() { # FORMAT EXPRESSION NUMBER...
    local format=$1 expression=$2
    shift 2
    for value in "$@"; do if [[ -z $value ]]; then printf -- '-'; return; fi; done
    awk -v a="${1:-0}" -v b="${2:-0}" -v c="${3:-0}" "BEGIN { printf \"$format\", $expression }"
}

# ---- doctor ----
say 'what is here'
"$relora" doctor | tee "$out/logs/doctor.txt"
nvidia-smi >"$out/logs/nvidia-smi.txt" 2>&1 && sed -n 1,20p "$out/logs/nvidia-smi.txt"
if ! "$relora" doctor --json | tr -d '\n ' | grep -q '"name":"CUDA","usable":true'; then
    echo 'error: no CUDA device can be used here: see above' >&2
    exit 1
fi
# Other checks name GPUs too: only the one of that name lists them.
gpus=$("$relora" doctor --json | tr -d '\n' | sed 's/.*"name": *"GPUs"//; s/}.*//')
gpu=$(sed -n "s/.*$device \([^\",]*\(, compute capability [0-9.]*\)\{0,1\}\).*/\1/p" <<<"$gpus")
standin=
if [[ $gpu == stand-in* ]]; then
    standin=yes
    echo 'this is the stand-in driver, which computes nothing: NO FIGURE BELOW IS A MEASUREMENT'
fi
peer=
if [[ -z $standin ]] && "$python" -c 'import torch, transformers; assert torch.cuda.is_available()' 2>"$out/logs/python.txt"; then
    peer=yes
else
    echo "$python has no PyTorch that sees a GPU, or no transformers: PyTorch is left out"
fi

# ---- the recorded trainings of the official code ----
wanted golden && for precision in f32 bf16-master bf16; do
    say "golden trajectories in $precision"
    log=$out/logs/golden-$precision.txt
    export RELORA_GOLDEN_DIR=$here/golden RELORA_GOLDEN_DEVICE=$device RELORA_GOLDEN_PRECISION=$precision
    if "$work/golden" >"$log" 2>&1; then
        passed=true
    else
        passed=false
        [[ -n $standin ]] || failed+=("golden trajectories in $precision")
    fi
    tail -2 "$log"
    summary=$(grep -E '^[0-9]+ cases' "$log" | tail -1)
    [[ -n $summary ]] || failed+=("golden trajectories in $precision did not end")
    printf '{"part": "golden", "precision": "%s", "passed": %s, "cases": %d, "failed": %d}\n' "$precision" "$passed" \
        "$(sed -n 's/^\([0-9]*\) cases.*/\1/p' <<<"${summary:-0 cases}")" \
        "$(sed -n 's/.*, \([0-9]*\) failed.*/\1/p' <<<"${summary:-, 0 failed}")" >>"$jsonl"
done

# ---- speed ----
bench_step() { # FILE SIZE METHOD BATCH STEPS
    "$relora" bench-step --device "$device" --precision bf16 --size "$2" --method "$3" --batch "$4" --steps "$5" \
        --set dropout=0 --json >"$1" 2>"$1.err"
}
peer_step() { # FILE SIZE METHOD BATCH [--compile]; the shape is that of our own record
    local line method=$3
    line=$(grep -F "\"size\": \"$2\"" "$jsonl" | grep -F '"program": "relora"' | grep -F "\"method\": \"$method\"" | tail -1)
    local flags=() key
    for key in hidden intermediate layers heads vocabulary; do flags+=("--$key" "$(number $key <<<"$line")"); done
    # LoRA and ReLoRA take the same steps.
    [[ $method == full ]] || { flags+=(--rank "$(number rank <<<"$line")"); method=relora; }
    "$python" "$here/peers/peer.py" "${flags[@]}" --batch "$4" --seq "$(number sequence_length <<<"$line")" --threads "$(nproc)" \
        --method "$method" --steps "$steps" --device "$device" --dtype bf16 ${5:-} >"$1" 2>"$1.err"
}
# The batch with which a step handles most tokens per second: doubled until it fails or is large enough.
tuned_batch() { # SIZE METHOD
    local batch=8 best=0 chosen= speed file=$work/tune.json
    while bench_step "$file" "$1" "$2" "$batch" 3; do
        speed=$(tr -s '\n ' ' ' <"$file" | number tokens_per_second)
        if awk "BEGIN { exit !($speed > $best) }"; then best=$speed chosen=$batch; fi
        (($(tr -s '\n ' ' ' <"$file" | number sequence_length) * batch * 2 <= most_tokens)) || break
        batch=$((2 * batch))
    done
    echo "$chosen"
}
wanted speed && for size in ${sizes//,/ }; do
    for method in ${methods//,/ }; do
        say "$size $method"
        batch=$(tuned_batch "$size" "$method")
        if [[ -z $batch ]]; then
            failed+=("$size $method: not even 8 sequences")
            cat "$work/tune.json.err" >&2
            continue
        fi
        eager=$batch compiled=$batch
        for ((round = 1; round <= rounds; round++)); do
            file=$out/logs/$size-$method-$round.json
            if bench_step "$file" "$size" "$method" "$batch" "$steps"; then
                record "$file" "\"part\": \"speed\", \"program\": \"relora\", \"round\": $round"
            else
                failed+=("$size $method")
                cat "$file.err" >&2
            fi
            for program in ${peer:+eager compiled}; do
                file=$out/logs/$size-$method-$round-$program.json
                flag=; [[ $program == eager ]] || flag=--compile
                # PyTorch may need more memory for the same batch: half of it then, in this round and in those after it.
                while ! peer_step "$file" "$size" "$method" "${!program}" "$flag" && ((${!program} > 1)); do
                    printf -v "$program" %d $((${!program} / 2))
                done
                what="\"part\": \"speed\", \"program\": \"pytorch-$program\", \"round\": $round"
                what+=", \"size\": \"$size\", \"method\": \"$method\", \"batch\": ${!program}"
                [[ ! -s $file ]] || record "$file" "$what"
            done
        done
        of=('"program": "relora"' "\"size\": \"$size\"" "\"method\": \"$method\"")
        echo "batch $batch, tokens per second: $(over tokens_per_second "${of[@]}")"
    done
done

# ---- a whole suite ----
suite_flags=()
if [[ -n $standin ]]; then
    # Every step costs this machine's processor what a GPU would do in no time.
    for setting in steps=12 warm_start_steps=4 restart_every=4 warmup_steps=1 rewarmup_steps=1 evaluate_every=12 \
        checkpoint_every=12 data.validation_tokens=8192; do
        suite_flags+=(--set "$setting")
    done
fi
suite='was left out'
if wanted suite; then
    say 'profile gpu-check: warm start, restarts, resets, checkpoints, evaluations'
    if "$relora" bench-all --profile gpu-check --device "$device" --data "$work/text" --out "$work/suite" "${suite_flags[@]}" \
        >"$out/logs/suite.txt" 2>"$out/logs/suite.err"; then
        suite='went through; its tables are in `gpu-check-tables`'
    else
        suite=FAILED
        failed+=('profile gpu-check')
        tail -5 "$out/logs/suite.err" >&2
    fi
    cp -r "$work/suite/tables" "$out/gpu-check-tables" 2>/dev/null
    passed=true
    [[ $suite != FAILED ]] || passed=false
    printf '{"part": "suite", "profile": "gpu-check", "passed": %s}\n' "$passed" >>"$jsonl"
    sed -n 1,12p "$out/logs/suite.txt"
fi

# ---- memory that must stay flat ----
if wanted soak; then
    say "soak: $soak steps"
    if bench_step "$out/logs/soak.json" 60m relora 8 "$soak"; then
        record "$out/logs/soak.json" '"part": "soak", "program": "relora"'
    else
        failed+=('soak')
        cat "$out/logs/soak.json.err" >&2
    fi
fi
early=$(over early_peak_memory_bytes '"part": "soak"') late=$(peak '"part": "soak"')
if [[ -n $early && -n $late ]] && awk "BEGIN { exit !($late > 1.01 * $early) }"; then
    failed+=("soak: memory grew from $early to $late bytes")
fi

# ---- tables ----
{
    echo "# relora on $gpu"
    echo
    [[ -z $standin ]] || printf '**The stand-in driver computes nothing: no figure here is a measurement.**\n\n'
    echo "bf16, no dropout, rank 128, each with the batch that is fastest; median of $rounds rounds of $steps steps, in turn with PyTorch"
    echo "(\`transformers\`, sdpa attention, fused AdamW). MFU: of what the card's data sheet promises in bf16, where it is known."
    printf '\n| size | method | batch | tokens/s | MFU | PyTorch eager, ratio | compiled, ratio | memory | PyTorch eager, ratio | first step |\n'
    printf '|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n'
    for size in ${sizes//,/ }; do
        for method in ${methods//,/ }; do
            of=("\"size\": \"$size\"" "\"method\": \"$method\"")
            ours() { over "$1" '"part": "speed"' '"program": "relora"' "${of[@]}"; }
            eager() { over "$1" '"program": "pytorch-eager"' "${of[@]}"; }
            compiled() { over "$1" '"program": "pytorch-compiled"' "${of[@]}"; }
            own=$(ours tokens_per_second) memory=$(peak '"part": "speed"' '"program": "relora"' "${of[@]}")
            printf '| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n' "$size" "$method" \
                "$(calculated %d a "$(ours batch)")" \
                "$(calculated %.0f a "$own")" \
                "$(calculated '%.0f%%' 100*a/b "$(ours flops_per_second)" "$(ours card_flops_per_second)")" \
                "$(calculated %.2f a/b "$own" "$(eager tokens_per_second)")" \
                "$(calculated %.2f a/b "$own" "$(compiled tokens_per_second)")" \
                "$(calculated '%.0f MB' a/1e6 "$memory")" \
                "$(calculated %.2f a/b "$memory" "$(eager peak_memory_bytes)")" \
                "$(calculated '%.1f s' a "$(ours first_step_seconds)")"
        done
    done
    printf '\n| recorded trainings | cases | failed |\n|---|--:|--:|\n'
    for precision in f32 bf16-master bf16; do
        of=('"part": "golden"' "\"precision\": \"$precision\"")
        echo "| $precision | $(over cases "${of[@]}") | $(over failed "${of[@]}") |"
    done
    printf '\n| soak, 60m relora | steps | peak after a tenth | peak |\n|---|--:|--:|--:|\n'
    echo "| | $soak | $(calculated '%.0f MB' a/1e6 "$early") | $(calculated '%.0f MB' a/1e6 "$late") |"
    printf '\nThe suite of the profile `gpu-check` %s.\n' "$suite"
    if ((${#failed[@]})); then printf '\n**Failed:** %s\n' "$(IFS=';'; echo "${failed[*]}")"; fi
} >"$markdown"
say "$markdown"
cat "$markdown"
((${#failed[@]} == 0))
