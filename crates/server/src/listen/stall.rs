//! A client that does not read.

use std::{
    error::Error,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// A connection that fails once its peer has taken less than `enough` bytes, and not all that was ready, in `patience`.
#[derive(Debug)]
pub struct Stall<I> {
    io: I,
    patience: Duration,
    enough: usize,
    /// Runs while something waits to be taken.
    clock: Option<Pin<Box<Sleep>>>,
    /// Since the clock was started.
    taken: usize,
}

impl<I> Stall<I> {
    /// Around `io`.
    pub fn new(io: I, patience: Duration, enough: usize) -> Self {
        Self { io, patience, enough, clock: None, taken: 0 }
    }

    fn took(&mut self, bytes: usize) {
        self.taken += bytes;
        if self.taken >= self.enough {
            self.took_all();
        }
    }

    fn took_all(&mut self) {
        self.clock = None;
        self.taken = 0;
    }

    /// The peer takes nothing right now.
    fn waits<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let patience = self.patience;
        let clock = self.clock.get_or_insert_with(|| {
            self.taken = 0;
            Box::pin(sleep(patience))
        });
        clock.as_mut().poll(cx).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, Stalled)))
    }
}

/// Why a connection was given up.
#[derive(Debug, thiserror::Error)]
#[error("the client does not read")]
struct Stalled;

/// Whether `error` comes of a [`Stall`].
pub fn is_stalled(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if error.is::<Stalled>() || inner.is_some_and(|inner| inner.is::<Stalled>()) {
            return true;
        }
        next = error.source();
    }
    false
}

impl<I: AsyncRead + Unpin> AsyncRead for Stall<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Stall<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.io).poll_write(cx, bytes) {
            Poll::Ready(written) => {
                self.took(written.as_ref().copied().unwrap_or(0));
                Poll::Ready(written)
            }
            Poll::Pending => self.waits(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.io).poll_write_vectored(cx, bytes) {
            Poll::Ready(written) => {
                self.took(written.as_ref().copied().unwrap_or(0));
                Poll::Ready(written)
            }
            Poll::Pending => self.waits(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// Called once all that was ready has been written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(flushed) => {
                self.took_all();
                Poll::Ready(flushed)
            }
            Poll::Pending => self.waits(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_shutdown(cx) {
            Poll::Pending => self.waits(cx),
            ready => ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_given_up() {
        let (ours, _theirs) = duplex(16);
        let mut stall = Stall::new(ours, PATIENCE, 1024);
        let began = tokio::time::Instant::now();
        let error = stall.write_all(&[0; 64]).await.unwrap_err();
        assert!(is_stalled(&error), "{error}");
        assert_eq!(began.elapsed().as_secs(), PATIENCE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_a_byte_now_and_then_is_given_up_too() {
        let (ours, mut theirs) = duplex(16);
        let mut stall = Stall::new(ours, PATIENCE, 1024);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PATIENCE / 4).await;
                if theirs.read_u8().await.is_err() {
                    break;
                }
            }
        });
        assert!(is_stalled(&stall.write_all(&[0; 4096]).await.unwrap_err()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_but_keeps_on_is_served() {
        let (ours, mut theirs) = duplex(16);
        let mut stall = Stall::new(ours, PATIENCE, 64);
        let reader = tokio::spawn(async move {
            let mut read = 0;
            let mut buffer = [0; 16];
            while let Ok(bytes @ 1..) = theirs.read(&mut buffer).await {
                read += bytes;
                tokio::time::sleep(PATIENCE / 8).await;
            }
            read
        });
        stall.write_all(&[0; 4096]).await.unwrap();
        stall.flush().await.unwrap();
        // A pause in which nothing waits is no stall.
        tokio::time::sleep(PATIENCE * 3).await;
        stall.write_all(&[0; 16]).await.unwrap();
        drop(stall);
        assert_eq!(reader.await.unwrap(), 4112);
    }
}
