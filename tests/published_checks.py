"""Checks of a published run: its files belong together, and its analysis, done again by other code, agrees."""

import math
import re

import numpy as np
import pytest
import reanalysis as again
import scipy.stats

from experiments.config import Arm
from experiments.store.record import read

COLUMNS = (
    "treatment,context,learning_rate,weight_decay,decay_scale_bias,seed,val_accuracy,val_loss,test_accuracy,"
    "test_accuracy_population,test_accuracy_batch,diverged,learned"
)


def checked(folder):
    """All checks of one published folder."""
    run = read(folder)
    result, config = run.result, run.config
    lines = again.read_scores(folder)
    arms = again.searched(config, lines, result["look"]["seeds"], result["metric"])
    bags = again.bagged(arms)
    check_scores(folder, config, lines)
    check_arms(config, result, lines, arms, bags)
    tables = None if config.data.split_each_seed else again.by_example(bags, folder)
    for row in result["contrasts"]:
        check_estimate(config, row, bags, tables)
        check_tests(row)
    check_family(result)
    check_published(config, result)
    check_report(folder, result)


def check_scores(folder, config, lines):
    assert ",".join(lines[0]) == COLUMNS
    assert {(line["treatment"], line["context"]) for line in lines} == set(config.arms)
    keys = [tuple(line[name] for name in COLUMNS.split(",")[:6]) for line in lines]
    assert len(set(keys)) == len(keys), "a network appears twice"
    for line in lines:
        arm = Arm(line["treatment"], line["context"])
        assert int(line["seed"]) in config.seeds(arm)
        assert 0 <= float(line["val_accuracy"]) <= 1 and 0 <= float(line["test_accuracy"]) <= 1
        limit = again.chance_limit(config, arm)
        assert line["learned"] == str(100 * float(line[_metric(config, line)]) > limit + 1e-4)
    assert (folder / "right.npz").exists() is not config.data.split_each_seed
    if (folder / "right.npz").exists():
        with np.load(folder / "right.npz") as file:
            counted = np.unpackbits(file["bits"], axis=1, count=int(file["examples"])).mean(axis=1)
            said = [float(lines[int(row)][_metric(config, lines[int(row)])]) for row in file["row"]]
        np.testing.assert_allclose(counted, said, atol=0.4 / again.TEST_SETS[config.data.name][0])


def _metric(config, line):
    return config.analysis.metric if line[config.analysis.metric] else "test_accuracy"


def check_arms(config, result, lines, arms, bags):
    """Accuracies, shares of the bags by setting, arms at an end of the grid, and how many trainings learned."""
    rates = result["learning_rates"]
    decays = config.sweep.weight_decays
    ends = {decays[0], decays[-1]} - {0.0} if len(decays) > 1 else set()
    for row in result["arms"]:
        name = f"{row['treatment']}/{row['context']}"
        found, variances, still = again.estimated(bags, {name: 1.0})
        assert found.agrees(row["estimate"]), name
        assert still or _variance(variances).agrees(row["se"] ** 2), name
        assert row["seeds"] == list(arms[name].seeds)
        shares = again.shares(bags, name)
        for setting in row["settings"]:
            key = (setting["learning_rate"], setting["weight_decay"], setting["decay_scale_bias"])
            assert shares[key].agrees(setting["share"]) if key in shares else setting["share"] == 0, (name, key)
        at_end = [share for s, share in shares.items() if s[0] in (rates[0], rates[-1]) or s[1] in ends]
        mine = again.Found(sum(s.value for s in at_end), math.hypot(*(s.error for s in at_end)))
        assert mine.agrees(row["at_end"]), name
        for contrast in result["contrasts"]:
            if name in contrast["weights"]:
                listed = {end["arm"]: end["share"] for end in contrast["at_end"]}
                assert (name in listed) == (row["at_end"] >= 0.05) and listed.get(name, row["at_end"]) == row["at_end"]
        chosen = (row["learning_rate"], row["weight_decay"], row["decay_scale_bias"])
        assert shares[chosen].value > max(s.value for s in shares.values()) - again.ERRORS * shares[chosen].error
        test = arms[name].test[:, arms[name].settings.index(chosen)]
        np.testing.assert_allclose(test, row["values"], atol=1e-9)
        limit = again.chance_limit(config, Arm(row["treatment"], row["context"]))
        learned = row["learned"]
        assert learned["limit"] == pytest.approx(limit)
        assert (learned["count"], learned["n"]) == (int((test > limit + 1e-4).sum()), len(test))
        low, high = scipy.stats.beta.ppf(
            [0.025, 0.975],
            [learned["count"], learned["count"] + 1],
            [len(test) - learned["count"] + 1, len(test) - learned["count"]],
        )
        expected = [0.0 if np.isnan(low) else low, 1.0 if np.isnan(high) else high]
        assert learned["ci"] == pytest.approx(expected, abs=1e-6)


def _variance(variances):
    """The sum over sets of seeds."""
    return again.Found(sum(v.value for v in variances.values()), math.hypot(*(v.error for v in variances.values())))


def check_estimate(config, row, bags, tables):
    """The estimate, and the variance of each interval."""
    found, variances, still = again.estimated(bags, row["weights"])
    assert found.agrees(row["difference"]), row["name"]
    assert row["exact"] is still, row["name"]
    narrow, wide = row["intervals"][0], row["intervals"][-1]
    if still:
        assert narrow["se"] == 0 and narrow["ci"] == [row["difference"]] * 2
        assert wide["se"] == 0 or not config.data.split_each_seed, "only other examples may move it"
        return
    variance = _variance(variances)
    assert variance.agrees(narrow["se"] ** 2), row["name"]
    n = row["n"]
    if row["paired"]:
        assert narrow["df"] == pytest.approx(n - 1)
        assert np.mean(row["values"]) == pytest.approx(row["difference"], abs=1e-9)
    else:
        assert narrow["df"] == pytest.approx(
            variance.value**2 / sum(v.value**2 / (n - 1) for v in variances.values()), rel=0.1
        )
    assert narrow["speaks_of"] == ("new seeds and splits" if config.data.split_each_seed else "new seeds")
    assert len(row["intervals"]) == (1 if row["same_arm"] else 2)
    if row["same_arm"]:
        return
    assert wide["speaks_of"] == "new data, too" and wide["difference"] == narrow["difference"]
    if config.data.split_each_seed:
        assert wide["se"] == pytest.approx(narrow["se"] * math.sqrt(1 + n * again.digits_ratio(config)))
        assert wide["df"] == pytest.approx(narrow["df"])
    else:
        examples, both = again.new_examples(bags, tables, row["weights"])
        seeds = narrow["se"] ** 2
        total = seeds + examples - both if both < min(seeds, examples) else max(seeds, examples)
        assert wide["se"] == pytest.approx(math.sqrt(total), rel=0.02), row["name"]
    assert wide["ci"][0] <= narrow["ci"][0] and wide["ci"][1] >= narrow["ci"][1]


def check_tests(row):
    """p values and intervals follow from estimate, standard error and degrees of freedom; the verdict from them."""
    assert {key: row[key] for key in row["intervals"][-1]} == row["intervals"][-1], "the widest interval comes first"
    alpha, margin = row["alpha"], row["margin_pp"]
    for of in row["intervals"]:
        d, se, df = of["difference"], of["se"], of["df"]
        if row["exact"]:
            p = 1.0 if abs(d) < 1e-4 else 2.0 ** (1 - row["n"])
            assert of["p"] == p and of["tost_p"] == (2.0 ** -row["n"] if abs(d) < margin else 1.0)
        else:
            assert of["p"] == pytest.approx(again.two_sided(d, se, df), rel=1e-6)
            assert of["tost_p"] == pytest.approx(again.within(d, se, df, margin), rel=1e-6, abs=1e-12)
        for name, level in (("ci", alpha), ("equivalence_ci", 2 * alpha)):
            half = 0.0 if row["exact"] else float(scipy.stats.t.isf(level / 2, df)) * se
            assert of[name] == pytest.approx([d - half, d + half], abs=1e-9)
        if of["simultaneous_ci"]:
            bonferroni = 0.0 if row["exact"] else float(scipy.stats.t.isf(alpha / row["family"] / 2, df)) * se
            half = (of["simultaneous_ci"][1] - of["simultaneous_ci"][0]) / 2
            assert (of["ci"][1] - of["ci"][0]) / 2 - 1e-9 <= half <= bonferroni + 1e-9
        assert of["finding"] == expected_finding(row, of)
    said = row["verdict"].removeprefix("exploration: ")
    assert row["sentence"].endswith(row["verdict"]) and (said != row["verdict"]) is not (
        row["primary"] or row["same_arm"]
    )


def expected_finding(row, of):
    d, different = of["difference"], of["adjusted_p"] < row["alpha"]
    equivalent = of["adjusted_tost_p"] < row["alpha"]
    if row["same_arm"]:
        return "same_arm_agrees" if of["ci"][0] <= 1e-4 and of["ci"][1] >= -1e-4 else "same_arm_differs"
    if row["exact"] and abs(d) < 1e-4:
        return "exactly_equal"
    worse = {arm for arm, w in row["weights"].items() if w * d < 0}
    if different and worse & {end["arm"] for end in row["at_end"]}:
        return "worse_at_end_of_grid"
    if different:
        return "different_within_margin" if equivalent else "different"
    return "equivalent" if equivalent else "inconclusive"


def check_family(result):
    """Holm's method over all primary contrasts, for differences and for equivalence, by each kind of interval."""
    family = [row for row in result["contrasts"] if row["primary"] and not row["same_arm"]]
    for row in result["contrasts"]:
        assert row["family"] == (len(family) if row in family else 1)
        assert row["alpha"] == result["look"]["alpha"]
    for k in (0, -1):
        for p, adjusted in (("p", "adjusted_p"), ("tost_p", "adjusted_tost_p")):
            expected = again.holm([row["intervals"][k][p] for row in family])
            assert [row["intervals"][k][adjusted] for row in family] == pytest.approx(expected)
            others = [row["intervals"][k] for row in result["contrasts"] if row not in family]
            assert all(of[adjusted] == of[p] for of in others)


def check_published(config, result):
    """The words for what others published follow from ours, their spread, and the margin."""
    gaps = []
    for reported, row in zip(config.analysis.published, result["published"], strict=True):
        ours = next(r for r in result["contrasts"] if r["name"] == reported.contrast)
        theirs = (
            0.0 if reported.sd is None else reported.sd**2 * sum(w**2 for w in ours["weights"].values()) / reported.n
        )
        variance = ours["se"] ** 2 + theirs
        df = variance**2 / (ours["se"] ** 4 / ours["df"] + theirs**2 / (len(ours["weights"]) * max(1, reported.n - 1)))
        gap, se = ours["difference"] - reported.difference, math.sqrt(variance)
        assert row["gap"] == pytest.approx(gap)
        gaps.append((again.two_sided(gap, se, df), again.within(gap, se, df, ours["margin_pp"])))
    for column, name in enumerate(("adjusted_p", "adjusted_tost_p")):
        expected = again.holm([gap[column] for gap in gaps])
        assert [row[name] for row in result["published"]] == pytest.approx(expected, rel=1e-6, abs=1e-12)
    alpha = result["look"]["alpha"]
    for row in result["published"]:
        equal, apart = row["adjusted_tost_p"] < alpha, row["adjusted_p"] < alpha
        assert row["word"] == ("shown equal" if equal else "not reproduced" if apart else "compatible")


def check_report(folder, result):
    """The report quotes every sentence of the result, and its figures are there."""
    text = (folder / "report.md").read_text(encoding="utf-8")
    plain = " ".join(text.replace("**", "").split())
    for row in (*result["contrasts"], *result["published"], *result["shares"]):
        assert " ".join(row["sentence"].split()) in plain
    figures = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert "figures/differences.png" in figures
    assert [name for name in figures if not (folder / name).is_file()] == []
