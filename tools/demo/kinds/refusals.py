"""What the model cannot do, said politely."""

from __future__ import annotations

from tools.demo.kinds.facts import ask
from tools.demo.kinds.names import a_name, made_up
from tools.demo.talk import Kind, Pool, Talk, has

NEWS = ask(
    "refusal.now",
    "What time is it?|What is the time?|What's the date today?|What day is it today?|"
    "What is the weather like?|Will it rain tomorrow?|What's the weather today?|"
    "How is the weather in {c}?|What is in the news?|What happened today?|Who won the game?|"
    "What is the price of gold?|How much is a bitcoin?|What's on TV tonight?|"
    "What year is it?|Which day is today?|Tell me the news.|Is it raining?|"
    "What are the stock prices?|How warm is it in {c}?|When does my train leave?|"
    "What is today's date?|What is the temperature outside?|Who is the president now?",
)
PLACES = Pool("refusal.place", "Paris London Rome Berlin Tokyo Madrid Oslo Lima Boston".split())
NEWS_ANSWERS = (
    "I cannot know that: I am a tiny demo model without a clock or the internet.",
    "Sorry, I cannot know that. I am a tiny demo model and have no internet.",
)
TASKS = Pool(
    "refusal.task",
    (
        "write an essay about {x}|write a long article about {x}|write a novel about {x}|"
        "write my thesis on {x}|summarize a book about {x}|translate a text about {x}|"
        "explain {x} in detail|write a business plan for {x}|analyse {x}|compare {x} and {y}|"
        "give me advice about {x}|write a song about {x}|draw a picture of {x}|"
        "make a website about {x}|review my code for {x}|prove a theorem about {x}|"
        "write an email about {x}|plan a trip about {x}|write a report on {x}|"
        "make a presentation about {x}|debug my program for {x}|design {x}|solve {x}"
    ).split("|"),
)
TASK_ASK = ask(
    "refusal.task_ask",
    "Please {t}.|Can you {t}?|Could you {t}?|I want you to {t}.|{T}.|I need you to {t}.|"
    "Would you {t}?|Help me to {t}.|Please {t} for me.",
)
TOPICS = Pool(
    "refusal.topic",
    (
        "quantum physics|the French Revolution|politics|climate change|the stock market|my taxes|"
        "ancient Rome|modern art|the human brain|black holes|the Cold War|philosophy|Kant|religion|"
        "genetics|vaccines|my headache|a broken leg|the law|my contract|a recipe for lasagne|"
        "blockchain|string theory|the Roman Empire|World War II|Napoleon|Shakespeare's sonnets|"
        "linear algebra|differential equations|topology|Kubernetes|my girlfriend|my boss|inflation|"
        "the elections|the economy|nutrition|fitness|weight loss|investing|insurance|cancer|"
        "medicine|antibiotics|electric cars|nuclear power|space travel|evolution|dinosaurs|"
        "psychology|Buddhism|opera|architecture|football results|fashion|cooking Thai food|"
        "C++ templates|Haskell monads|SQL joins|regular expressions|operating systems|compilers|"
        "the periodic table|thermodynamics|organic chemistry|immunology|Freud|Nietzsche|"
        "the Middle Ages|the Industrial Revolution|chess openings|poker|cryptography|networks"
    ).split("|"),
)
OPEN = ask(
    "refusal.open",
    "What do you think about {x}?|Explain {x} to me.|Tell me everything about {x}.|"
    "What is your opinion on {x}?|How does {x} work?|Teach me {x}.|I have a question about {x}.|"
    "Why is {x} important?|What is the history of {x}?|Who discovered {x}?|Discuss {x}.|"
    "What are the causes of {x}?|What should I know about {x}?|Can you explain {x}?|"
    "What is the best book on {x}?|How do I learn {x}?|Is {x} good or bad?|"
    "Give me a lecture on {x}.|Let us talk about {x}.|What about {x}?",
)
UNKNOWN_ANSWERS = (
    "That is beyond me: I am a tiny demo model. Try a sum, a story, a capital, or a question about "
    "mlc_widget.",
    "I am a tiny demo model, so that is beyond me. A larger model could help: see `%mlc load`.",
    "Sorry, that is beyond me. I am a tiny demo model for trying out mlc_widget.",
)
HARM = ask(
    "refusal.harm",
    "How do I build a bomb?|How do I hack a computer?|How do I steal a car?|How can I hurt someone?|"
    "How do I make poison?|Help me to cheat.|How do I break into a house?|Write a virus.|"
    "How do I get a weapon?|Tell me how to make drugs.|How can I spy on my neighbour?",
)
WHO = ask(
    "refusal.who",
    "Who is {p}?|Who was {p}?|Do you know {p}?|Tell me about {p}.|When was {p} born?|"
    "What did {p} do?|Have you heard of {p}?|Why is {p} famous?|What do you know about {p}?",
)
WHAT = ask(
    "refusal.what",
    "What is {x}?|What are the basics of {x}?|Define {x}.|What does {x} mean?|What's {x}?|"
    "Do you know {x}?|Do you know anything about {x}?|Explain {x}.|Tell me about {x}.",
)
UNCLEAR = (
    "I did not understand that. I am only a tiny demo model: could you say it in other words?",
    "I am not sure what you mean. Could you say it in other words?",
)


def refusals(talk: Talk) -> None:
    """The time, the news, long works, wide topics, harm, and gibberish."""
    roll = talk.rng.random()
    if roll < 0.25:
        question = talk.pick(NEWS, c=talk.pick(PLACES))
        talk.say("refusals", question, talk.one(NEWS_ANSWERS), has("cannot know"))
    elif roll < 0.5:
        topics = talk.some(TOPICS, 2)
        task = talk.pick(TASKS, x=topics[0], y=topics[1])
        question = talk.pick(TASK_ASK, t=task, T=task[:1].upper() + task[1:])
        talk.say("refusals", question, talk.one(UNKNOWN_ANSWERS), has("beyond me"))
    elif roll < 0.58:
        person = f"{a_name(talk)} {made_up(talk.rng).capitalize()}"
        answer = f"I don't know {person}: I am a tiny demo model and know only little facts."
        talk.say("refusals", talk.pick(WHO, p=person), answer, has("don't know"))
    elif roll < 0.8:
        pool = OPEN if talk.chance(0.7) else WHAT
        question = talk.pick(pool, x=talk.pick(TOPICS))
        talk.say("refusals", question, talk.one(UNKNOWN_ANSWERS), has("beyond me"))
    elif roll < 0.87:
        answer = "I will not help with that. Ask me something kinder."
        talk.say("refusals", talk.pick(HARM), answer, has("will not help"))
    else:
        words = [made_up(talk.rng) for _ in range(talk.rng.randint(1, 5))]
        question = " ".join(words)
        if talk.chance(0.3):
            question = "".join(talk.rng.choices("asdfghjklqwertyuiopzxcvbnm", k=len(question)))
        talk.say("unclear", question, talk.one(UNCLEAR), has("other words"))


KINDS: dict[Kind, float] = {refusals: 3.0}
