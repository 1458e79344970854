"""The licences of what is installed."""

from importlib.metadata import Distribution

from benchmarks.licences import IN_A_FILE, installed, licence_of


class Package(Distribution):
    def __init__(self, text: str) -> None:
        self.text = text

    def read_text(self, filename: str) -> str | None:
        return self.text if filename == "METADATA" else None

    def locate_file(self, path):
        raise NotImplementedError


def test_a_licence_is_an_expression_or_a_classifier_or_a_line() -> None:
    classifier = "Classifier: License :: OSI Approved :: MIT License"
    head = "Metadata-Version: 2.1\nName: a\nVersion: 1\n"
    assert (
        licence_of(Package(f"{head}License-Expression: MIT OR BSD-3-Clause\n{classifier}\n"))
        == "MIT OR BSD-3-Clause"
    )
    assert licence_of(Package(f"{head}{classifier}\nLicense: see file\n")) == "MIT License"
    assert licence_of(Package(f"{head}License: ISC\n")) == "ISC"
    assert licence_of(Package(f"{head}License: UNKNOWN\n")) == ""


def test_dependencies_of_dependencies_are_listed_and_all_state_a_licence() -> None:
    found = installed("meshcritic")
    assert {"meshcritic", "torch", "sympy", "langsmith"} <= set(
        found
    )  # sympy is torch's, langsmith LangChain's
    assert "pytest" not in found  # of an extra
    silent = {name for name, package in found.items() if not licence_of(package)}
    assert silent <= set(IN_A_FILE)
