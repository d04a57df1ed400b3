"""Diagnose: what is wrong with a network, and what to change."""

from __future__ import annotations

from collections.abc import Sequence

from convscope.errors import UsageError
from convscope.methods import METHODS
from convscope.progress import track
from convscope.settings import Words, setting
from convscope.studies.diagnosis import CHECKS, chosen
from convscope.studies.diagnosis.finding import COLUMNS, Checkup, as_row
from convscope.studies.diagnosis.patient import Patient, patient_of
from convscope.studies.diagnosis.registry import Check
from convscope.studies.registry import register
from convscope.studies.result import Result, Table, result
from convscope.studies.subject import DataSet

METHOD_HELP = "method that finds the evidence of an answer, one that gives a map of the photo"


@register("diagnose", of="data", paper="Zeiler & Fergus 2013, sections 4.1 and 5.1")
class Diagnose:
    """Diagnose: what is wrong with a network, and what to change (after Zeiler & Fergus 2013, sections 4.1 and 5.1).

    The paper looked at its network's features, saw what was wrong and mended it: filters that dominate, filters that
    are all of high or of low frequency, aliasing from a large stride. Here each of these is a check with a number, a
    threshold and its reason, and so are units that are dead or duplicates, layers no better than random, classes that
    are confused, and evidence that lies in a corner. What a finding advises is one change to try.

    Photos without labels do as well: what needs classes is then left out. The paper gives no numbers: what is measured
    is said by each check, and the thresholds are ours.
    """

    photos: int = setting(default=500, help="at most so many photos, drawn at random where there are more")
    checks: Words | None = setting(default=None, help=f"checks, of {', '.join(CHECKS)}; by default all")
    method: str = setting(default="grad-cam", help=METHOD_HELP)

    def run(self, data: DataSet, seed: int = 0) -> Result:
        if self.photos < 1:
            raise UsageError(f"photos is how many are looked at, at least 1, got {self.photos}")
        wanted = chosen(self.checks or ())
        maps = [name for name, method in METHODS.items() if method.traits.kind == "map" and method.traits.targeted]
        if self.method not in maps:
            raise UsageError(f"method is {self.method!r}, not one of {', '.join(maps)}")
        patient = patient_of(data, self.photos, self.method, seed)
        return self.told(data, patient, examined(patient, wanted), seed)

    def told(self, data: DataSet, patient: Patient, checkups: dict[str, Checkup], seed: int) -> Result:
        """The result that the checks come to."""
        found = [(name, one) for name, checkup in checkups.items() for one in checkup.findings]
        found.sort(key=lambda pair: not pair[1].fault)
        faults = sum(one.fault for _, one in found)
        about = "What is wrong, and what to change" if faults else "Remarks on a network without faults"
        rows = [as_row(name, one) for name, one in found]
        tables = [Table("findings", about, COLUMNS, rows, told=True), _measured(checkups)]
        figures = [figure for checkup in checkups.values() for figure in checkup.figures]
        notes = [*patient.notes, *(note for checkup in checkups.values() for note in checkup.notes)]
        sentences = [_verdict(checkups, faults, len(patient)), *(str(one) for _, one in found)]
        title = f"What is wrong with {patient.classifier.name}"
        return result(self, title, seed, data, tables, figures, sentences, notes, faults)


def examined(patient: Patient, wanted: Sequence[Check]) -> dict[str, Checkup]:
    """What each check came to."""
    return {one.name: _made(patient, one) for one in track(wanted, "checks")}


def _made(patient: Patient, one: Check) -> Checkup:
    if one.labels and patient.labels is None:
        return Checkup.left_out(f"{one.name}: left out, the photos' classes are not known")
    if one.answers and patient.blind:
        return Checkup.left_out(f"{one.name}: left out, the network answers the same to all photos")
    return one.run(patient)


def _measured(checkups: dict[str, Checkup]) -> Table:
    columns = {
        "check": "the check that measured it",
        "where": "layer, unit, class or photo",
        "what": "what was measured",
        "number": "what it came to",
        "threshold": "beyond which it is a finding; none where it stands beside one",
    }
    rows = [
        (name, one.where, one.what, one.number, one.threshold)
        for name, checkup in checkups.items()
        for one in checkup.measures
    ]
    return Table("measures", "All that was measured", columns, rows)


def _verdict(checkups: dict[str, Checkup], faults: int, photos: int) -> str:
    seen = "; ".join(checkup.seen for checkup in checkups.values() if checkup.seen)
    what = f"{faults} fault{'s' if faults > 1 else ''}" if faults else "a clean bill: no faults"
    return f"{what}, looked for with {photos:,} photo{'s' if photos > 1 else ''} in {seen or 'nothing'}"
