#!/usr/bin/env bash
# From nothing to a model of every world, and a table of what each of them reaches.
#
#   bash examples/speedrun.sh
#   MINUTES=30 WORLDS="pusht maze" bash examples/speedrun.sh
#   PRETRAIN=30 bash examples/speedrun.sh       # with an encoder of its own
#   WORLDS="pusht-pose pusht-fast chips-pictures chips-open" bash examples/speedrun.sh
#
# All cores record, and training takes a GPU where there is one. Run it again after a kill: recording
# and training resume, and what is complete is skipped. Worlds of other packages need
# `pip install '.[worlds]'`. Everything lies in OUT; the table is OUT/README.md. The fourth command
# makes the bundled models with representations for one world, in the steps of their configs;
# pusht-fast needs pusht-pose.
set -euo pipefail
cd "$(dirname "$0")/.."
export MUJOCO_GL=${MUJOCO_GL:-egl}
OWN="pusht maze chips"
FOREIGN="gym-pusht point-maze-u point-maze-medium reacher pusher two-rooms"
SPECIAL="pusht-pose pusht-fast chips-pictures chips-open"

OUT=${OUT:-runs/speedrun}
WORLDS=${WORLDS:-$OWN $FOREIGN}
MINUTES=${MINUTES:-10}   # training of each world
PRETRAIN=${PRETRAIN:-0}  # training of the encoder; 0: the bundled one
PERCENT=${PERCENT:-100}  # of the episodes below that are recorded
TASKS=${TASKS:-150}      # of each evaluation
mkdir -p "$OUT/results"

started() { # RUN: whether there is a training state to resume from
    if [ -f "$OUT/$1/state.pt" ]; then echo true; else echo false; fi
}

record() { # NAME ENV EPISODES FLAGS...: episodes of a world, as a dataset
    python -m worldmodel.collect --out "$OUT/data/$1" --env "$2" \
        --episodes $(($3 * PERCENT / 100)) "${@:4}"
}

record_pusht() { record pusht worldmodel/PushT-v0 9000 --steps 100; }
record_pushes() {
    record pusht-pushes worldmodel/PushT-v0 4500 --steps 100 --policy wild --seed 1
}
record_maze() { record maze worldmodel/Maze-v0 1000 --steps 100 --env_kwargs.layout random; }

learn() { # NAME DATASETS...: a world model
    local data
    data=$(printf ",$OUT/data/%s" "${@:2}")
    python -m worldmodel.train --config configs/default.yaml --data "${data:1}" \
        --cache "$OUT/latents" ${weights:+--encoder_weights "$weights"} \
        --minutes "$MINUTES" --out "$OUT/$1" --resume "$(started "$1")"
}

special() { # NAME CONFIG STEPS FLAGS...: a model of a config of its own
    python -m worldmodel.train --config "configs/$2.yaml" --cache "$OUT/latents" \
        --steps $(($3 * PERCENT / 100)) --out "$OUT/$1" --resume "$(started "$1")" "${@:4}"
}

complete() { # NAME DATASET: probe, decoder, familiar frames and usual errors of a world model
    [ ! -f "$OUT/$1/finished" ] || return 0
    python -m worldmodel.finish --checkpoint "$OUT/$1/checkpoint" --data "$OUT/data/$2" \
        --decoder_steps $((20 * PERCENT)) --surprise_episodes $((4 * PERCENT))
    touch "$OUT/$1/finished"
}

measure() { # RESULT MODEL ENV FLAGS...: its success
    [ -f "$OUT/results/$1.json" ] || python -m worldmodel.evaluate --env "$3" \
        --checkpoint "$OUT/$2/checkpoint" --episodes "$TASKS" --seeds 3 --batch 50 \
        --random_episodes "$TASKS" --ceiling.episodes 0 --timed_plans 3 --label "$1" \
        --out "$OUT/results/$1.json" "${@:4}"
}

foreign() { # NAME ID EPISODES STEPS: all of it, for a world of examples/worlds
    record "$1" "examples.worlds:worlds/$2-v0" "$3" --steps "$4"
    learn "$1" "$1"
    measure "$1" "$1" "examples.worlds:worlds/$2-v0"
}

weights=""
if [ "$PRETRAIN" != 0 ]; then
    record_pusht
    record_maze
    python -m worldmodel.pretrain --config configs/ibot.yaml --data "$OUT/data/pusht,$OUT/data/maze" \
        --minutes "$PRETRAIN" --out "$OUT/ibot" --resume "$(started ibot)"
    weights=$OUT/ibot/encoder
fi

for world in $WORLDS; do
    echo "== $world"
    case $world in
    pusht)
        record_pusht
        record pusht-wild worldmodel/PushT-v0 1000 --steps 100 --policy wild --seed 1
        learn pusht pusht pusht-wild
        complete pusht pusht
        measure pusht pusht worldmodel/PushT-v0
        ;;
    maze)
        record_maze
        record maze-medium worldmodel/Maze-v0 1000 --steps 100 --env_kwargs.layout medium
        record maze-u worldmodel/Maze-v0 400 --steps 100 --env_kwargs.layout U
        learn maze maze-u maze-medium maze
        complete maze maze
        for layout in U medium random; do
            measure "maze-$layout" maze worldmodel/Maze-v0 --env_kwargs.layout $layout
        done
        ;;
    chips)
        record chips worldmodel/GranularChips-v0 2500 --steps 20
        learn chips chips
        complete chips chips
        measure chips chips worldmodel/GranularChips-v0 --budget_steps 10
        ;;
    pusht-pose)
        record_pusht
        record_pushes
        special pusht-pose pusht 3000 --pose_steps $((60 * PERCENT)) \
            --data "$OUT/data/pusht" --dynamics_data "$OUT/data/pusht-pushes"
        complete pusht-pose pusht
        measure pusht-pose pusht-pose worldmodel/PushT-v0
        ;;
    pusht-fast)
        record_pusht
        record_pushes
        special pusht-fast pusht-fast 4000 --teacher "$OUT/pusht-pose/checkpoint" \
            --data "$OUT/data/pusht" --dynamics_data "$OUT/data/pusht-pushes"
        complete pusht-fast pusht
        measure pusht-fast pusht-fast worldmodel/PushT-v0
        ;;
    chips-pictures)
        record chips-12000 worldmodel/GranularChips-v0 12000 --steps 20
        special chips-pictures chips 4000 --data "$OUT/data/chips-12000"
        complete chips-pictures chips-12000
        measure chips-pictures chips-pictures worldmodel/GranularChips-v0 --budget_steps 10
        ;;
    chips-open)
        record chips-open worldmodel/GranularChips-v0 2000 --steps 10 --seed 1 --env_kwargs.rim false
        record chips-open-wild worldmodel/GranularChips-v0 3500 --steps 10 --policy wild \
            --env_kwargs.rim false
        special chips-open chips-open 4000 --data "$OUT/data/chips-open-wild,$OUT/data/chips-open"
        complete chips-open chips-open-wild
        measure chips-open chips-open worldmodel/GranularChips-v0 --budget_steps 10 \
            --env_kwargs.rim false
        ;;
    gym-pusht) foreign gym-pusht PushT 3000 100 ;;
    point-maze-u) foreign point-maze-u PointMazeU 400 100 ;;
    point-maze-medium) foreign point-maze-medium PointMazeMedium 400 100 ;;
    reacher) foreign reacher Reacher 400 100 ;;
    pusher) foreign pusher Pusher 600 100 ;;
    two-rooms) foreign two-rooms TwoRooms 400 50 ;;
    *)
        echo "there is no world '$world': there are $OWN $FOREIGN $SPECIAL" >&2
        exit 2
        ;;
    esac
done

results=$(cd "$OUT" && ls results/*.json | tr '\n' ' ')
printf '# Worlds\n\n<!-- table success %s-->\n<!-- end -->\n' "$results" > "$OUT/README.md"
python -m worldmodel.tables --root "$OUT"
cat "$OUT/README.md"
