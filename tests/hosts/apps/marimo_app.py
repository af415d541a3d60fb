# /// script
# [tool.marimo.display]
# theme = "system"
# ///
import marimo

app = marimo.App()


@app.cell
async def _():
    import json
    import os

    from mlc_widget import ChatWidget, create_kernel_mlc_engine

    engine = await create_kernel_mlc_engine(
        os.environ["MODEL"],
        runtime="scripted",
        runtime_options=json.loads(os.environ["SCRIPT"]),
    )
    return ChatWidget, engine


@app.cell
def _(ChatWidget, engine):
    chat = ChatWidget(engine)
    chat
    return


if __name__ == "__main__":
    app.run()
