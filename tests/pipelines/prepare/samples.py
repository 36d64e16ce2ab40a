"""Rows in the forms of public collections, with texts of our own."""

from __future__ import annotations

from typing import Any

HOTPOTQA: dict[str, Any] = {
    "_id": "5a7a0693",
    "question": "In which town does the river meet the canal that Ada built?",
    "answer": "Salton",
    "type": "bridge",
    "level": "medium",
    "supporting_facts": [["Ada's canal", 0], ["Salton", 1]],
    "context": [
        ["Ada's canal", ["The canal was built by Ada.", " It ends at the river."]],
        ["Lamp", ["A lamp gives light."]],
        ["Salton", ["Salton is a town.", " River and canal meet there."]],
    ],
}
HOTPOTQA_COLUMNS: dict[str, Any] = {
    "id": "5a7a0693",
    "question": HOTPOTQA["question"],
    "answer": "Salton",
    "supporting_facts": {"title": ["Ada's canal", "Salton"], "sent_id": [0, 1]},
    "context": {
        "title": [title for title, _ in HOTPOTQA["context"]],
        "sentences": [sentences for _, sentences in HOTPOTQA["context"]],
    },
}
MUSIQUE: dict[str, Any] = {
    "id": "2hop__13548_13529",
    "question": "Who owns the mill by the bridge?",
    "answer": "Bo",
    "answer_aliases": ["Bo Miller"],
    "answerable": True,
    "question_decomposition": [{"id": 1, "question": "Which mill?", "answer": "Old", "paragraph_support_idx": 1}],
    "paragraphs": [
        {"idx": 0, "title": "Wool", "paragraph_text": "Wool is warm.", "is_supporting": False},
        {"idx": 1, "title": "Mill", "paragraph_text": "Bo owns the mill.", "is_supporting": True},
    ],
}
LONGMEMEVAL: dict[str, Any] = {
    "question_id": "gpt4_59c863d7",
    "question_type": "multi-session",
    "question": "How many model kits did I buy?",
    "answer": 2,
    "question_date": "2023/05/30 (Tue) 23:40",
    "haystack_session_ids": ["s1", "s2", "s3"],
    "haystack_dates": ["2023/05/20 (Sat) 02:21", "2023/05/21 (Sun) 10:02", "2023/05/22 (Mon) 08:00"],
    "haystack_sessions": [
        [
            {"role": "user", "content": "I bought a kit of a ship.", "has_answer": True},
            {"role": "assistant", "content": "Which one?"},
            {"role": "user", "content": "A barge."},
            {"role": "assistant", "content": "Nice."},
        ],
        [{"role": "user", "content": "Good morning."}, {"role": "assistant", "content": "Good morning."}],
        [{"role": "user", "content": "Another kit came.", "has_answer": True}],
    ],
    "answer_session_ids": ["s1", "s3"],
}
LOCOMO: dict[str, Any] = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ann",
        "speaker_b": "Ben",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ann", "dia_id": "D1:1", "text": "Hey Ben!"},
            {"speaker": "Ben", "dia_id": "D1:2", "text": "Look!", "blip_caption": "a photo of a bridge"},
        ],
        "session_2_date_time": "2:00 pm on 9 May, 2023",
        "session_2": [{"speaker": "Ann", "dia_id": "D2:1", "text": "I saw the bridge."}],
        "session_10_date_time": "3:00 pm on 10 May, 2023",
        "session_10": [{"speaker": "Ben", "dia_id": "D10:1", "text": "Bye."}],
    },
    "qa": [
        {"question": "What did Ben show?", "answer": "a bridge", "evidence": ["D1:2; D2:1"], "category": 1},
        {"question": "In what year?", "answer": 2023, "evidence": ["D1:09"], "category": 2},
        {"question": "What did Ann sell?", "adversarial_answer": "a boat", "evidence": ["D2:1"], "category": 5},
    ],
}
CLIPPER: dict[str, Any] = {
    "id": 7,
    "book_name": "mars",
    "text": "CHAPTER I. Start\nThe flier rose.\n\nCHAPTER II. End\nThe flier fell.\n",
    "true_claim": "The flier rose before it fell.",
    "false_claim": "The flier fell before it rose.",
    "source": "Chapters 1, 2",
}
QMSUM: dict[str, Any] = {
    "topic_list": [{"topic": "Budget", "relevant_text_span": [["0", "1"]]}],
    "general_query_list": [{"query": "Summarize the meeting.", "answer": "They spoke of money."}],
    "specific_query_list": [{"query": "What was decided?", "answer": "To wait.", "relevant_text_span": [["1", "2"]]}],
    "meeting_transcripts": [
        {"speaker": "Chair", "content": "Money?"},
        {"speaker": "Bo", "content": "Little."},
        {"speaker": "Chair", "content": "Then we wait."},
    ],
}
