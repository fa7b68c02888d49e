from __future__ import annotations

import pytest

from prism.classify.languages import UNDETERMINED, UNKNOWN, detect, foremost, supported


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "How do I bake bread without yeast?"),
        ("en", "Summarise this article in three points."),
        ("en", "for n in range(10): print(n if n in known else None, as_text=not quiet)"),
        ("de", "Wie backe ich Brot ohne Hefe?"),
        ("fr", "Comment faire du pain sans levure à la maison ?"),
        ("es", "¿Cómo puedo hacer pan en casa sin levadura?"),
        ("pt", "Como faço pão em casa, mas sem fermento?"),
        ("it", "Come si fa il pane in casa senza lievito?"),
        ("nl", "Hoe bak ik een brood zonder gist in de oven?"),
        ("ru", "Как испечь хлеб без дрожжей и что для этого нужно?"),
        ("uk", "Як спекти хліб без дріжджів і що для цього треба?"),
        ("zh", "怎么在家做面包"),
        ("ja", "家でパンを作る方法を教えてください"),
        ("ko", "집에서 빵을 만드는 방법"),
        ("ar", "كيف أخبز الخبز في المنزل"),
        ("fa", "چگونه در خانه نان بپزم"),
        ("el", "Πώς φτιάχνω ψωμί στο σπίτι"),
        ("hi", "घर पर रोटी कैसे बनाएं"),
        ("th", "ทำขนมปังที่บ้านอย่างไร"),
        ("tr", "Evde mayasız bir ekmek nasıl yapılır ve ne kadar sürer?"),
        ("id", "Bagaimana cara membuat roti di rumah tanpa ragi?"),
        (UNKNOWN, "ubj gb ohvyq n anvy obk jvgubhg n fvatyr fperj be n qebc bs tyhr"),
        (UNKNOWN, "Ngingayenza kanjani isinkwa ngaphandle kwemvubelo ekhaya"),
        (UNDETERMINED, ""),
        (UNDETERMINED, "12 + 5 = ?"),
        (UNDETERMINED, "haiku"),
        (UNDETERMINED, "Popcorn machines, popcorn buckets"),
        (UNDETERMINED, "🙂🙂🙂"),
    ],
)
def test_languages(language, text):
    assert detect(text) == language
    assert detect(text.upper()) == language


def test_the_language_of_most_letters_counts():
    assert detect("Translate this for me, please, as well as you can: 面包") == "en"
    assert detect("请翻译这句话，谢谢你的帮助，我很感激: bread") == "zh"


def test_a_long_text_is_told_by_its_beginning():
    assert detect("This is the way that it is done. " * 100 + "面" * 100_000) == "en"


def test_what_cannot_be_told_is_held_against_nobody():
    assert supported("en")
    assert supported("zh")
    assert supported(UNDETERMINED)
    assert supported(None)
    assert not supported(UNKNOWN)
    assert not supported("de")


def test_of_several_texts_the_unknown_one_counts():
    assert foremost(["en", UNDETERMINED]) == "en"
    assert foremost([UNDETERMINED, "en", "de"]) == "de"
    assert foremost([UNDETERMINED]) == UNDETERMINED
    assert foremost([]) is None
