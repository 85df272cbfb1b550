"""docs/serving.md: the library behind Flask, as it stands there."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from pictures import photo
from small_checkpoints import save_lenet
from test_export_onnx import blocks

from common.checkpoint import store
from common.checkpoint.config import load_config, save_config
from common.evaluate.classifier import Classifier

pytest.importorskip("flask", reason="pip install '.[test]' brings it")


def test_the_documented_server_answers_several_clients_and_refuses_what_is_no_picture(
    tmp_path, monkeypatch
):
    save_lenet(str(tmp_path / "lenet"), ["ant", "bee", "cat"])
    (tmp_path / "checkpoints").mkdir()
    prefix = str(tmp_path / "checkpoints" / "alexnet-cifar10")
    config = load_config(str(tmp_path / "lenet"))
    save_config(prefix, config["args"], config["classes"])
    store.save(prefix, 3, *store.load(str(tmp_path / "lenet"), 1))
    pictures = [photo(50, 40, seed) for seed in range(16)]
    names, probabilities = Classifier(prefix, 3).predict(pictures)

    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "server"}
    _, server = blocks("python")
    exec(server, scope)

    def ask(picture):
        sent = cv2.imencode(".png", picture)[1].tobytes()
        return scope["app"].test_client().post("/", data=sent)

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(ask, pictures))
    for answer, expected, shares in zip(answers, names, probabilities):
        assert answer.status_code == 200 and set(answer.json) == set(expected)
        said = [answer.json[name] for name in expected]
        assert np.allclose(said, shares, rtol=1e-4, atol=1e-6)
    refused = scope["app"].test_client().post("/", data=b"no picture")
    assert refused.status_code == 400 and "picture 0: " in refused.json["error"]
